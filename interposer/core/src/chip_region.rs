//! The region of one chip, as this process has it mapped. Every claim on the chip can write the file, so every one can
//! cut it, and an access behind the end would kill the process: each decision looks first, and finds nothing in a
//! region that was cut.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use vnpu_quota_abi::device::{ChipTable, DEVICE_SIZE, DeviceEntry};
use vnpu_quota_abi::view::DeviceView;

use crate::log;
use crate::map::{File, Region};

/// The region, and the file that it is.
pub(crate) struct ChipRegion {
    view: DeviceView,
    file: File,
    path: PathBuf,
    _region: Region,
}

impl ChipRegion {
    /// Maps the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path, true)?;
        // Not what a neighbour has added to it, and the agent will take off again.
        let region = Region::map_first(&file, DEVICE_SIZE, true)?;
        let view = DeviceView::open(region.mapping()).map_err(|e| e.words().to_owned())?;
        Ok(Self { view, file, path: path.to_owned(), _region: region })
    }

    /// What can be touched of it now. For one decision, without a call of the vendor's between: between the look and
    /// the access there must be nothing that takes time.
    pub(crate) fn now(&self) -> Found<'_> {
        Found(self.is_whole().then_some(&self.view))
    }

    fn is_whole(&self) -> bool {
        let again = || {
            self.file.reopen(&self.path)?;
            self.file.has(DEVICE_SIZE)
        };
        // Where it cannot be opened again, it cannot be asked either.
        let whole = self.file.has(DEVICE_SIZE).or_else(again).unwrap_or(true);
        if !whole {
            log::once(
                log::Kind::Cut,
                &format!(
                    "{}: it was cut short by a neighbour; compute is not limited until it is repaired",
                    self.path.display()
                ),
            );
        }
        whole
    }
}

/// The region as a look found it: empty where it was cut.
pub(crate) struct Found<'a>(Option<&'a DeviceView>);

impl Found<'_> {
    /// Whether there is anything.
    pub(crate) const fn is_whole(&self) -> bool {
        self.0.is_some()
    }
}

impl ChipTable for Found<'_> {
    fn lease(&self) -> Option<&AtomicU64> {
        self.0.and_then(ChipTable::lease)
    }

    fn entry(&self, entry: u16) -> Option<&DeviceEntry> {
        self.0.and_then(|view| ChipTable::entry(view, entry))
    }
}
