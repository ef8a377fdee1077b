//! What lies in storage services, in HDFS, in repositories of the hub and in directories of web servers: for the commands.
//!
//! A command finds out here what there is, and gets for each object an address ([`Place`]) at which the daemon reads it
//! like anything else that a URL names. Where a service wants requests signed, that address is signed: it opens this object,
//! for reading, for an hour. So the daemon knows no service and never sees a credential, its cache is the same for all who
//! may read, and the service itself says who may, each time (`access`).
//!
//! Only commands come here. [`address`], [`filter`], [`relative`] and [`index`] are pure; what knows opendal is [`bucket`].

pub(crate) mod address;
mod azure;
mod bucket;
mod filter;
mod hdfs;
mod hub;
mod index;
mod options;
mod place;
mod relative;
mod web;

use darter_engine::ContentId;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

pub(crate) use self::address::Address;
use self::bucket::Bucket;
pub(crate) use self::filter::Filters;
use self::hdfs::Hdfs;
use self::hub::Hub;
pub(crate) use self::options::{SelectArgs, StorageArgs};
pub(crate) use self::place::Place;
pub(crate) use self::relative::RelativePath;
use self::web::Web;

/// Why there is no object, or no list of them. Messages are for people, and have nothing in them that opens anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ObjectError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// An object that a list has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// What [`Store::place`] takes.
    pub(crate) key: String,
    /// Below what was listed, as the service has it: not looked at yet.
    pub(crate) name: String,
    /// If the list tells it.
    pub(crate) length_bytes: Option<u64>,
    /// Its SHA-256, if the list tells it.
    pub(crate) id: Option<ContentId>,
}

impl Listed {
    /// An object that no list has told of.
    pub(crate) fn of_key(key: &str) -> Self {
        Self { key: key.to_owned(), name: key.to_owned(), length_bytes: None, id: None }
    }
}

/// Objects, as they come.
pub(crate) type List<'a> = BoxStream<'a, Result<Listed, ObjectError>>;

/// Where objects are.
#[derive(Debug)]
pub(crate) enum Store {
    Bucket(Bucket),
    Hub(Hub),
    Hdfs(Hdfs),
    Web(Web),
}

impl Store {
    /// Opens it. Nobody is asked yet.
    ///
    /// # Errors
    /// The address or the options make no sense there.
    pub(crate) fn open(address: &Address, options: &StorageArgs) -> Result<Self, ObjectError> {
        options.check(address)?;
        Ok(match address {
            Address::Object(object) => Self::Bucket(Bucket::open(object, options)?),
            Address::Hub(hub) => Self::Hub(Hub::open(hub)?),
            Address::Hdfs(hdfs) => Self::Hdfs(Hdfs::open(hdfs)?),
            Address::Directory(url) => Self::Web(Web::open(url, options)?),
        })
    }

    /// Where the daemon reads an object.
    ///
    /// # Errors
    /// It cannot be named, or there is no credential to sign with.
    pub(crate) async fn place(&self, key: &str) -> Result<Place, ObjectError> {
        match self {
            Self::Bucket(bucket) => bucket.place(key).await,
            Self::Hub(hub) => hub.place(key),
            Self::Hdfs(hdfs) => hdfs.place(key),
            Self::Web(web) => web.place(key),
        }
    }

    /// All that is below the address that was opened, in no order. Directories are not told.
    pub(crate) fn list(&self) -> List<'_> {
        match self {
            Self::Bucket(bucket) => bucket.list().boxed(),
            Self::Hub(hub) => hub.list().boxed(),
            Self::Hdfs(hdfs) => hdfs.list().boxed(),
            Self::Web(web) => web.list().boxed(),
        }
    }

    /// What somebody needs whom the origin refuses.
    pub(crate) fn advice(&self) -> String {
        match self {
            Self::Bucket(bucket) => bucket.advice().to_owned(),
            Self::Hub(_) => "HF_TOKEN, or `hf auth login`".to_owned(),
            Self::Hdfs(_) => "HADOOP_USER_NAME".to_owned(),
            Self::Web(_) => "--authorization-file".to_owned(),
        }
    }
}
