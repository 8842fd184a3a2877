//! Whose files are whose: what root makes in somebody else's folder is theirs, and who may not open one is told whose it
//! is.
//!
//! Root may be the first to come (`sudo liuta token create`, one run by hand), but the service's user must be able to
//! open everything afterwards.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::process::geteuid;

/// Gives what was just made to the owner of the folder that it lies in. A volume that knows no owners, or lets root give
/// nothing away, is no reason not to record on it.
pub fn hand_over(made: &Path) {
    let Some(folder) = made.parent().filter(|_| geteuid().is_root()) else { return };
    let given = || {
        let (folder, own) = (std::fs::metadata(folder)?, std::fs::symlink_metadata(made)?);
        if folder.uid() != 0 && own.uid() != folder.uid() {
            std::os::unix::fs::lchown(made, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(())
    };
    let given: io::Result<()> = given();
    if let Err(error) = given {
        tracing::debug!("{}: stays root's: {error}", made.display());
    }
}

/// Replaces a file whole or not at all, safe from a power cut once this returns; at no time can more people read it than
/// `mode` says. Its folder must be there.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let draft = folder.join(name);
    // One that a crash has left may be anybody's.
    if let Err(error) = std::fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    hand_over(&draft);
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(&draft, path)) {
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    std::fs::File::open(folder)?.sync_all()
}

/// The error with what people need to know of it, where it comes of a folder or file that is another user's.
pub fn explain(path: &Path, error: io::Error) -> io::Error {
    let own = geteuid().as_raw();
    let found = path.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?)));
    let Some((foreign, owner)) = found.filter(|(_, found)| {
        error.kind() == io::ErrorKind::PermissionDenied && found.uid() != own && own != 0
    }) else {
        return error;
    };
    let told = match name_of(owner.uid()) {
        Some(name) => format!(
            "{error}: {} belongs to {name} (uid {}), and this runs as uid {own}; run it as that user (`sudo -u {name} \
             liuta …`), or give the folder to the one that the service runs as",
            foreign.display(),
            owner.uid()
        ),
        None => format!(
            "{error}: {} belongs to uid {}, which has no name here, and this runs as uid {own}; give the folder to \
             the user that the service runs as (`chown -R`)",
            foreign.display(),
            owner.uid()
        ),
    };
    io::Error::new(io::ErrorKind::PermissionDenied, told)
}

fn name_of(uid: u32) -> Option<String> {
    let users = std::fs::read("/etc/passwd").ok()?;
    let users = String::from_utf8_lossy(&users).into_owned();
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    users.lines().find_map(named)
}

/// Makes a folder and those above it that are missing; each belongs to whom the one above it belongs to.
pub fn make_folders(folder: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.as_os_str() == OsStr::new("") || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folders(above, mode)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => {
            hand_over(folder);
            Ok(())
        }
        // Somebody was faster; a file of that name fails whoever uses it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_makes_in_a_folder_belongs_to_the_folders_owner() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root makes files for others");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(4711), Some(4712)).unwrap();
        make_folders(&folder.path().join("a/b"), 0o700).unwrap();
        std::fs::write(folder.path().join("a/b/file"), "").unwrap();
        hand_over(&folder.path().join("a/b/file"));
        for made in ["a", "a/b", "a/b/file"] {
            let made = std::fs::metadata(folder.path().join(made)).unwrap();
            assert_eq!((made.uid(), made.gid()), (4711, 4712));
        }
    }

    #[test]
    fn users_are_named() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(name_of(4_000_000_123), None);
    }
}
