//! Where the interposer's two files are.

use std::path::{Path, PathBuf};

use crate::error::RunError;

/// `libvnpu.so`, beside `libvnpu_core.so`: in the directory that was asked for, else beside this program, else in
/// `/usr/local/lib/vnpu`.
pub(crate) fn find(configured: Option<&Path>) -> Result<PathBuf, RunError> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let candidates: Vec<PathBuf> = match configured {
        Some(dir) => vec![dir.to_path_buf()],
        None => beside.into_iter().chain([PathBuf::from("/usr/local/lib/vnpu")]).collect(),
    };
    let mut missing = PathBuf::from("libvnpu.so");
    for dir in candidates {
        // Absolute: the program may change its directory before it starts others.
        let dir = std::path::absolute(&dir).map_err(|e| RunError::io("find", &dir, e))?;
        match ["libvnpu.so", "libvnpu_core.so"].iter().map(|name| dir.join(name)).find(|path| !path.exists())
        {
            None => {
                let path = dir.join("libvnpu.so");
                // The loader splits the variable at spaces and colons, whatever quotes are around.
                if path.to_string_lossy().contains([' ', ':']) {
                    return Err(RunError::InterposerPath { path });
                }
                return Ok(path);
            }
            Some(path) => missing = path,
        }
    }
    Err(RunError::InterposerMissing { path: missing })
}
