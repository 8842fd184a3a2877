//! A disk that is small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of so many megabytes, in memory.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Nothing where this may not mount, and says so.
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting a small disk needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        super::run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "liuta-test"]).arg(folder.path()));
        Some(SmallDisk(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
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
