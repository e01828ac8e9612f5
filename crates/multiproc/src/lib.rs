#![doc = "x"]
#![warn(missing_docs)]
mod error;
mod gauge;
mod link;
mod pipe;
pub mod pool;
mod process;
pub mod queue;
mod start;
mod supervisor;
#[allow(unsafe_code)]
mod sys;
mod task;
mod wire;
pub use error::{Error, Result};
pub use pool::Pool;
pub use pipe::{Connection, pipe};
pub use process::{Builder, Info, Process, active_children, current, parent};
pub use start::init;
pub use task::Call;
