//! The registry backends of three generations of nydusd behind one face. What a test does with them is what
//! nydusd's storage layer does: ask for the size, then read ranges.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A generation of nydusd, by the `nydus-storage` that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nydusd {
    /// nydus-storage 0.5.1: nydusd 2.1.1 to 2.1.6.
    V2_1,
    /// nydus-storage 0.6.4: nydusd 2.3.0 to 2.3.2.
    V2_3,
    /// nydus-storage 0.7.2: nydusd 2.4.1 and later.
    V2_4,
}

type Size = dyn Fn() -> Result<u64, String> + Send + Sync;
type Read = dyn Fn(&mut [u8], u64) -> Result<usize, String> + Send + Sync;

/// A client that has just started: no connection, no token, nothing cached.
pub(crate) struct BlobClient {
    size: Box<Size>,
    read: Box<Read>,
}

/// The three crates have the same names for unrelated types.
macro_rules! open {
    ($storage:ident, $config:expr, $blob_id:expr) => {{
        use $storage::backend::BlobBackend as _;
        use $storage::backend::registry::Registry;
        let registry = Registry::new($config, Some($blob_id)).expect("nydusd accepts its configuration");
        let reader = registry.get_reader($blob_id).expect("the backend has the blob");
        let sizing = reader.clone();
        BlobClient {
            size: Box::new(move || sizing.blob_size().map_err(|error| format!("{error:?}"))),
            read: Box::new(move |into, offset| {
                // The backend ends its counters when it is dropped, so it lives as long as its reader.
                let _ = &registry;
                reader.read(into, offset).map_err(|error| format!("{error:?}"))
            }),
        }
    }};
}

impl BlobClient {
    /// A client for the blob `blob_id`, hexadecimal, with these settings of the registry backend.
    pub(crate) fn open(nydusd: Nydusd, backend: &Value, blob_id: &str) -> Self {
        match nydusd {
            Nydusd::V2_1 => open!(nydus_storage_0_5, backend.clone(), blob_id),
            Nydusd::V2_3 => open!(nydus_storage_0_6, &parsed(backend), blob_id),
            Nydusd::V2_4 => open!(nydus_storage_0_7, &parsed(backend), blob_id),
        }
    }

    /// What a HEAD says.
    pub(crate) fn size(&self) -> u64 {
        (self.size)().expect("the size of the blob")
    }

    /// `len` bytes from `offset` on.
    ///
    /// # Errors
    /// As nydusd would log it, or a read that came out short.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, String> {
        let mut into = vec![0; len];
        match (self.read)(&mut into, offset)? {
            read if read == len => Ok(into),
            read => Err(format!("{read} bytes of {len} at {offset}")),
        }
    }
}

fn parsed<T: DeserializeOwned>(backend: &Value) -> T {
    serde_json::from_value(backend.clone()).expect("nydusd understands its configuration")
}
