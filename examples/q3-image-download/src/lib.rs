//! The shared part of this package: a download, and a server to download from.

pub mod download;
pub mod server;
