//! The transfer of a server's handle to another process.

use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::Server;
use super::server_main::requests;
use crate::channel::SenderCore;
use crate::channel::endpoint::EndpointFds;
use crate::error::Result;
use crate::ipc::wire::SharedMemory;
use crate::ipc::wire::attachment::{self, Kind};

/// The encoding of a handle: the name, and the requests' sending end.
type Parts = (String, SharedMemory, EndpointFds, u32);

impl<S> Serialize for Server<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let end = self.connection.requests.end();
        let parts = (&self.connection.name, end.memory(), end.fds(), end.layout().capacity());
        attachment::serialize(Kind::Server, &parts, serializer)
    }
}

impl<'de, S> Deserialize<'de> for Server<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, memory, fds, capacity): Parts = attachment::deserialize(Kind::Server, deserializer)?;
        let layout = requests(capacity);
        let requests = SenderCore::open(layout, memory, fds).map_err(D::Error::custom)?;
        Ok(Self::new(name, requests, None))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::channel::sockets;
    use crate::testing::{any_changes, cases, decode_changed};

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn a_changed_handle_is_one_or_an_error(changes in any_changes()) {
            let layout = requests(8);
            let memory = SharedMemory::create(NonZeroUsize::new(layout.end()).unwrap()).unwrap();
            let (from, to) = sockets().unwrap();
            let (sender, _receiver) = layout.create(&memory, from, to).unwrap();
            let server = Server::<u32>::new("fuzzed".to_owned(), sender, None);
            if let Ok(changed) = decode_changed::<Server<u32>>(&server, &changes) {
                let _ = changed.is_alive();
            }
        }
    }
}
