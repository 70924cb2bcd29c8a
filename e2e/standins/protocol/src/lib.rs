//! What the stand-in vendor libraries and the stand-in driver say to each other, and the machine's description.
//! Nothing of the product uses this crate: the product sees only the vendor's C interfaces in front of it.

mod client;
mod frame;
mod gpu;
mod machine;
mod message;

pub use client::{Client, ClientError, library_directory};
pub use frame::{read_frame, write_frame};
pub use gpu::{Gpu, GpuView, GpusView, Nvidia, UnknownSymbols, gpu_minor, gpu_number};
pub use machine::{Card, Die, Fault, Machine, MultiDiePolicy, SuperPod};
pub use message::{DieView, ProcessView, Reply, Request, RuntimeDevice, Selector};

/// The driver's directory below a driver root, as on a node with the vendor's driver.
pub const DRIVER_DIRECTORY: &str = "usr/local/Ascend/driver";

/// The driver's socket below a driver root. It lies in `lib64` because that directory is what containers get.
pub const SOCKET_BELOW_ROOT: &str = "usr/local/Ascend/driver/lib64/standin.sock";

/// File name of the socket.
pub const SOCKET_NAME: &str = "standin.sock";

/// Environment variable that names the driver's socket; wins over every search.
pub const SOCKET_VARIABLE: &str = "STANDIN_SOCKET";

/// Environment variable that names the directory with the `davinciN` and `nvidiaN` nodes; `/dev` without it.
pub const DEVICE_VARIABLE: &str = "STANDIN_DEV";
