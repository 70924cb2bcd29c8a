//! Writes the ustar format: the few kinds of entries that an image layer and an OCI layout need. Nothing
//! is read here.

use anyhow::{Result, bail};

/// A tar archive under construction, in memory.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.header(&format!("{path}/"), mode, 0, b'5', "")
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.header(path, mode, content.len() as u64, b'0', "")?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(())
    }

    /// Adds a symbolic link at `path` which says `target`.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.header(path, 0o777, 0, b'2', target)
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: u64, kind: u8, link: &str) -> Result<()> {
        // Names over 100 bytes would need the prefix field; nothing that goes into our images has one.
        if path.len() > 100 || link.len() > 100 {
            bail!("{path}: a path in an image is limited to 100 bytes");
        }
        let mut block = Vec::with_capacity(512);
        let field = |block: &mut Vec<u8>, text: &[u8], width: usize| {
            let end = block.len() + width;
            block.extend_from_slice(text);
            block.resize(end, 0);
        };
        field(&mut block, path.as_bytes(), 100);
        field(&mut block, format!("{mode:07o}").as_bytes(), 8);
        field(&mut block, b"0000000", 8);
        field(&mut block, b"0000000", 8);
        field(&mut block, format!("{size:011o}").as_bytes(), 12);
        field(&mut block, b"00000000000", 12);
        // The sum is taken with eight spaces in its own place.
        let before = block.iter().map(|b| u64::from(*b)).sum::<u64>() + 8 * 32;
        let mut rest = Vec::with_capacity(356);
        field(&mut rest, &[kind], 1);
        field(&mut rest, link.as_bytes(), 100);
        field(&mut rest, b"ustar\x0000", 8);
        rest.resize(356, 0);
        let sum = before + rest.iter().map(|b| u64::from(*b)).sum::<u64>();
        field(&mut block, format!("{sum:06o}\0 ").as_bytes(), 8);
        block.extend_from_slice(&rest);
        self.bytes.extend_from_slice(&block);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tar;

    #[test]
    fn the_systems_tar_reads_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Tar::default();
        tar.directory("etc", 0o755).unwrap();
        tar.file("etc/name", 0o640, b"content").unwrap();
        tar.symlink("link", "etc/name").unwrap();
        std::fs::write(dir.path().join("a.tar"), tar.finish()).unwrap();
        let status =
            std::process::Command::new("tar").args(["xf", "a.tar"]).current_dir(dir.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(dir.path().join("link")).unwrap(), b"content");
    }
}
