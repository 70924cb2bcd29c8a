//! What the stand-in vendor libraries and the stand-in driver say to each other, and the machine's description.
//! Nothing of the product uses this crate: the product sees only the vendor's C interfaces in front of it.

mod client;
mod frame;
mod gpu;
mod machine;
mod message;

pub use client::{Client, ClientError, library_directory};
pub use frame::{read_frame, write_frame};
pub use gpu::{Gpu, GpuView, GpusView, Instance, Mig, Nvidia, UnknownSymbols, Xid, gpu_minor, gpu_number};
pub use machine::{Card, DeviceShare, Die, Fault, Machine, MultiDiePolicy, SuperPod};
pub use message::{DieView, ProcessView, Reply, Request, RuntimeDevice, Selector};

/// The driver's directory below a driver root, as on a node with the vendor's driver.
pub const DRIVER_DIRECTORY: &str = "usr/local/Ascend/driver";

/// The driver's socket below a driver root. It lies in `lib64` because that directory is what containers get.
pub const SOCKET_BELOW_ROOT: &str = "usr/local/Ascend/driver/lib64/standin.sock";

/// The same socket where a machine has GPUs: containers get no directory of that driver, but the persistence daemon's
/// socket where there is one, and there is none of that here.
pub const GPU_SOCKET_BELOW_ROOT: &str = "run/nvidia-persistenced/socket";

/// File name of the socket.
pub const SOCKET_NAME: &str = "standin.sock";

/// Environment variable that names the driver's socket; wins over every search.
pub const SOCKET_VARIABLE: &str = "STANDIN_SOCKET";

/// Environment variable that names the directory with the `davinciN` and `nvidiaN` nodes; without it `/dev` of the
/// root that the library lies below, which is `/dev` in a container.
pub const DEVICE_VARIABLE: &str = "STANDIN_DEV";
