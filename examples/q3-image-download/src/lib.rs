//! What the programs of this package share: a download, and a server to download from.

pub mod download;
pub mod server;
