//! A disk that is small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of so many megabytes.
pub struct SmallDisk {
    folder: tempfile::TempDir,
    /// What lies below a file system that is one of a real disk.
    _image: Option<tempfile::NamedTempFile>,
}

impl SmallDisk {
    /// In memory. Nothing where this may not mount, and says so.
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        let folder = mount_point()?;
        let size = format!("size={megabytes}m");
        super::run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "liuta-test"]).arg(folder.path()));
        Some(SmallDisk { folder, _image: None })
    }

    /// An ext4, with its journal and its reserves, in a file. Nothing where there are no loop devices, and says so.
    pub fn ext4(megabytes: u64) -> Option<SmallDisk> {
        let folder = mount_point()?;
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        super::run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image.path()));
        let mounted =
            Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(folder.path()).output().unwrap();
        if !mounted.status.success() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(SmallDisk { folder, _image: Some(image) })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte, as somebody else would; gives back the file to delete.
    pub fn fill(&self) -> PathBuf {
        let hog = self.path().join("hog");
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "status=none"])
            .arg(format!("of={}", hog.display()))
            .status();
        hog
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.path()).status();
    }
}

fn mount_point() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small disk needs root");
        return None;
    }
    Some(tempfile::tempdir().unwrap())
}
