//! A bucket of a storage service, through opendal: lists of its objects, and signed addresses of them.
//!
//! Credentials are found as the service's own tools find them: in the environment and in the files that it names.

use std::env;
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http::{Uri, header};
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::ListOptions;
use opendal::{ErrorKind, Operator, services};
use url::Url;

use super::address::{ObjectAddress, Service};
use super::azure::{self, Sas};
use super::options::StorageArgs;
use super::relative::{BadName, RelativePath};
use super::{Listed, ObjectError, Place};
use crate::commands::text;

/// For so long an address is good. A download that takes longer is given another one.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// Before its end an address is taken for ended: clocks differ.
const SLACK: Duration = Duration::from_secs(60);
/// How long a service may be silent.
const SILENCE: Duration = Duration::from_secs(30);
const SHOWN_CHARS_MAX: usize = 300;

/// Some of a bucket's objects.
#[derive(Debug)]
pub(crate) struct Bucket {
    operator: Operator,
    address: ObjectAddress,
    /// What makes addresses in opendal's place.
    azure: Option<Azure>,
}

/// Where Azure's blobs are, and what signs for them, unless anyone may read them.
#[derive(Debug)]
struct Azure {
    endpoint: String,
    sas: Option<Sas>,
}

impl Bucket {
    pub(super) fn open(address: &ObjectAddress, options: &StorageArgs) -> Result<Self, ObjectError> {
        let endpoint = endpoint(address.service, options)?;
        let operator = operator(address, endpoint.as_deref(), options)?;
        let azure = endpoint.filter(|_| address.service == Service::Azblob).map(|endpoint| Azure {
            endpoint,
            sas: (!options.storage_anonymous).then(Sas::from_environment),
        });
        Ok(Self { operator, address: address.clone(), azure })
    }

    /// Where credentials are looked for.
    pub(super) fn advice(&self) -> &'static str {
        credentials_of(self.address.service)
    }

    pub(super) async fn place(&self, key: &str) -> Result<Place, ObjectError> {
        let shown = ObjectAddress { key: key.to_owned(), ..self.address.clone() }.to_string();
        // Another name would be asked for than is meant: opendal leaves out what stands twice, or at the ends.
        if let Err(error) = RelativePath::parse(key)
            && error != BadName::UnderWay
        {
            return Err(ObjectError::Failed(format!("{shown}: {error}")));
        }
        let until = Instant::now() + (SIGNED_FOR - SLACK);
        let uri = match &self.azure {
            Some(azure) => self.azure_uri(azure, key, &shown).await?,
            None => self.signed_uri(key, &shown).await?,
        };
        Place::signed(url_of(&uri, &shown)?, shown, until)
    }

    async fn signed_uri(&self, key: &str, shown: &str) -> Result<Uri, ObjectError> {
        let signed = self.operator.presign_read(key, SIGNED_FOR).await;
        let signed = signed.map_err(|error| self.without_credentials(shown, &said(&error)))?;
        // Of these `Host` goes with every request, and `Date` is signed by none: the address has its own end.
        let needed = signed.header().keys().find(|name| !matches!(**name, header::HOST | header::DATE));
        match needed {
            Some(name) => {
                let message = format!("{shown}: its address does not open it without the header {name}");
                Err(ObjectError::Failed(message))
            }
            None => Ok(signed.uri().clone()),
        }
    }

    async fn azure_uri(&self, azure: &Azure, key: &str, shown: &str) -> Result<Uri, ObjectError> {
        let uri = azure::uri_of(&azure.endpoint, &self.address.bucket, key)?;
        match &azure.sas {
            Some(sas) => sas.sign(uri, SIGNED_FOR).await.map_err(|why| self.without_credentials(shown, &why)),
            None => Ok(uri),
        }
    }

    fn without_credentials(&self, shown: &str, why: &str) -> ObjectError {
        let where_from = self.advice();
        ObjectError::Failed(format!(
            "{shown} cannot be signed for ({why}): credentials are taken from {where_from}; --storage-anonymous is for what \
             anyone may read"
        ))
    }

    /// A page of the service's at a time: it is asked for more when the list is read on.
    pub(super) fn list(&self) -> BoxStream<'_, Result<Listed, ObjectError>> {
        let options = ListOptions { recursive: true, ..ListOptions::default() };
        let prefix = if self.address.key.is_empty() { "/" } else { &self.address.key };
        let begun = self.operator.lister_options(prefix, options);
        let entries = stream::once(begun).try_flatten().map_err(|error| self.unlisted(&error));
        let listed = entries.try_filter_map(move |entry| async move {
            let metadata = entry.metadata();
            // Some tools keep an empty object for a directory.
            if metadata.is_dir() {
                return Ok(None);
            }
            let key = entry.path().to_owned();
            let Some(name) = key.strip_prefix(&self.address.key) else {
                let key = text::plain(&key, SHOWN_CHARS_MAX);
                return Err(ObjectError::Failed(format!(
                    "{}: the service lists {key}, which is not below it",
                    self.address
                )));
            };
            Ok(Some(Listed {
                name: name.to_owned(),
                length_bytes: Some(metadata.content_length()),
                id: None,
                key,
            }))
        });
        listed.boxed()
    }

    fn unlisted(&self, error: &opendal::Error) -> ObjectError {
        let (address, said) = (&self.address, said(error));
        match error.kind() {
            ErrorKind::NotFound => ObjectError::NotFound(format!("{address} cannot be listed: {said}")),
            ErrorKind::PermissionDenied => ObjectError::Failed(format!(
                "{address} cannot be listed: {said}: credentials are taken from {}",
                self.advice()
            )),
            _ => ObjectError::Failed(format!("{address} cannot be listed: {said}")),
        }
    }
}

/// What opendal says of an error, without the request: that may be signed.
fn said(error: &opendal::Error) -> String {
    let mut said = text::plain(error.message(), SHOWN_CHARS_MAX);
    let innermost = crate::origin::innermost(error);
    // Of an error without a cause that is its own, request and all.
    if std::error::Error::source(error).is_some() && !said.contains(&innermost) {
        said = format!("{said}: {}", text::plain(&innermost, SHOWN_CHARS_MAX));
    }
    format!("{}: {said}", error.kind())
}

fn url_of(uri: &Uri, shown: &str) -> Result<Url, ObjectError> {
    let written = uri.to_string();
    let url = Url::parse(&written).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // The daemon's parser leaves out what it takes for `..`; what is signed is to the letter.
    let same = url.filter(|url| url.path() == uri.path());
    same.ok_or_else(|| ObjectError::Failed(format!("{shown}: its name is none that a URL can have")))
}

/// Where people who are refused look.
fn credentials_of(service: Service) -> &'static str {
    match service {
        Service::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile AWS_PROFILE of ~/.aws",
        Service::Gcs => "the key of a service account in the file GOOGLE_APPLICATION_CREDENTIALS",
        Service::Azblob => {
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN"
        }
        Service::Oss => "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        Service::Obs => "HUAWEI_CLOUD_ACCESS_KEY_ID and HUAWEI_CLOUD_SECRET_ACCESS_KEY",
        Service::Cos => "TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY",
    }
}

fn variable(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// As the flag says, the service's variables, or what follows of the region.
fn endpoint(service: Service, options: &StorageArgs) -> Result<Option<String>, ObjectError> {
    let region = || options.storage_region.clone();
    let needs =
        |what: &str| ObjectError::Usage(format!("{}:// needs --storage-endpoint{what}", service.scheme()));
    let found = match (&options.storage_endpoint, service) {
        (Some(endpoint), _) => Some(endpoint.clone()),
        (None, Service::S3) => variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
        (None, Service::Gcs) => None,
        (None, Service::Azblob) => {
            let account = variable(&["AZURE_STORAGE_ACCOUNT_NAME", "AZBLOB_ACCOUNT_NAME"]);
            let account = account.ok_or_else(|| needs(", or AZURE_STORAGE_ACCOUNT_NAME"))?;
            Some(format!("https://{account}.blob.core.windows.net"))
        }
        (None, Service::Oss) => {
            let of_region = region()
                .map(|region| format!("https://oss-{}.aliyuncs.com", region.trim_start_matches("oss-")));
            let found = variable(&["OSS_ENDPOINT", "ALIBABA_CLOUD_OSS_ENDPOINT"]).or(of_region);
            Some(found.ok_or_else(|| needs(", --storage-region or OSS_ENDPOINT"))?)
        }
        (None, Service::Obs) => {
            let of_region = region().map(|region| format!("https://obs.{region}.myhuaweicloud.com"));
            Some(of_region.ok_or_else(|| needs(" or --storage-region"))?)
        }
        (None, Service::Cos) => {
            let of_region = region().or_else(|| variable(&["TENCENTCLOUD_REGION"]));
            let of_region = of_region.map(|region| format!("https://cos.{region}.myqcloud.com"));
            Some(of_region.ok_or_else(|| needs(", --storage-region or TENCENTCLOUD_REGION"))?)
        }
    };
    if let Some(endpoint) = &found {
        let with_scheme =
            if endpoint.contains("://") { endpoint.clone() } else { format!("https://{endpoint}") };
        let url = Url::parse(&with_scheme).ok();
        let url = url.filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        return match url {
            Some(url) => Ok(Some(String::from(url).trim_end_matches('/').to_owned())),
            None => Err(ObjectError::Usage(
                "--storage-endpoint: expected http(s)://HOST[:PORT], without a user name or password".into(),
            )),
        };
    }
    Ok(None)
}

fn operator(
    address: &ObjectAddress,
    endpoint: Option<&str>,
    options: &StorageArgs,
) -> Result<Operator, ObjectError> {
    let ObjectAddress { service, bucket, .. } = address;
    let unsigned = options.storage_anonymous;
    let given = endpoint.unwrap_or_default();
    // How it speaks http; the first call counts.
    opendal::install_default();
    let built = match service {
        Service::S3 => {
            let mut builder = services::S3::default().bucket(bucket).endpoint(given);
            let region =
                options.storage_region.clone().or_else(|| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
            // Servers of one's own have one region, and call it so.
            let region = region.or_else(|| endpoint.map(|_| "us-east-1".to_owned()));
            let region = region.ok_or_else(|| {
                ObjectError::Usage(format!("{address} needs --storage-region or AWS_REGION, or for a server of your own --storage-endpoint"))
            })?;
            builder = builder.region(&region);
            if unsigned {
                builder = builder.skip_signature();
            }
            if variable(&["AWS_EC2_METADATA_DISABLED"])
                .is_some_and(|value| value.eq_ignore_ascii_case("true"))
            {
                builder = builder.disable_ec2_metadata();
            }
            // As Amazon wants it; a bucket with dots in its name has no certificate that way.
            if endpoint.is_none() && !bucket.contains('.') {
                builder = builder.enable_virtual_host_style();
            }
            Operator::new(builder)
        }
        Service::Gcs => {
            let builder = services::Gcs::default().bucket(bucket).endpoint(given);
            Operator::new(if unsigned { builder.skip_signature() } else { builder })
        }
        Service::Azblob => {
            let mut builder = services::Azblob::default().container(bucket).endpoint(given);
            if let Some(account) = variable(&["AZURE_STORAGE_ACCOUNT_NAME", "AZBLOB_ACCOUNT_NAME"]) {
                builder = builder.account_name(&account);
            }
            Operator::new(if unsigned { builder.skip_signature() } else { builder })
        }
        Service::Oss => {
            let builder = services::Oss::default().bucket(bucket).endpoint(given);
            Operator::new(if unsigned { builder.skip_signature() } else { builder })
        }
        Service::Obs | Service::Cos if unsigned => {
            return Err(ObjectError::Usage(format!(
                "{address}: --storage-anonymous is not there for {}://",
                service.scheme()
            )));
        }
        Service::Obs => Operator::new(services::Obs::default().bucket(bucket).endpoint(given)),
        Service::Cos => Operator::new(services::Cos::default().bucket(bucket).endpoint(given)),
    };
    let operator = built.map_err(|error| ObjectError::Usage(format!("{address}: {}", said(&error))))?;
    Ok(operator
        .layer(TimeoutLayer::new().with_timeout(SILENCE).with_io_timeout(SILENCE))
        .layer(RetryLayer::new().with_jitter()))
}
