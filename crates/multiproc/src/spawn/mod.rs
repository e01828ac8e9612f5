//! Starting a child: by executing this program again, or by forking a zygote that has executed it already.

pub(crate) mod bootstrap;
pub(crate) mod child_main;
pub(crate) mod exec;
pub(crate) mod fork_server;
pub(crate) mod options;
pub(crate) mod supervisor;
mod zygote;
