//! Signed addresses of Azure's blobs.
//!
//! opendal's own would let their holder write and delete as well (`sp=racwd`, 0.59). These read one blob, and no more; a token
//! that somebody has set in AZURE_STORAGE_SAS_TOKEN is taken as it is.

use std::time::Duration;

use http::{Request, Uri};
use reqsign_azure_storage::{Credential, EnvCredentialProvider, RequestSigner};
use reqsign_core::{Context, OsEnv, Signer};

use super::ObjectError;

/// Read.
const PERMISSIONS: &str = "r";

/// Signs addresses.
#[derive(Debug)]
pub(super) struct Sas(Signer<Credential>);

impl Sas {
    /// With what the environment has.
    pub(super) fn from_environment() -> Self {
        Self::new(Context::new().with_env(OsEnv))
    }

    fn new(context: Context) -> Self {
        let signer = RequestSigner::new().with_service_sas_permissions(PERMISSIONS);
        Self(Signer::new(context, EnvCredentialProvider::new(), signer))
    }

    /// The address of a blob, and what opens it for so long.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) async fn sign(&self, blob: Uri, signed_for: Duration) -> Result<Uri, String> {
        let request = Request::get(blob).body(()).map_err(|error| error.to_string())?;
        let mut parts = request.into_parts().0;
        self.0.sign(&mut parts, Some(signed_for)).await.map_err(|error| crate::origin::innermost(&error))?;
        match parts.uri.query() {
            Some(_) => Ok(parts.uri),
            None => Err("there are no credentials".into()),
        }
    }
}

/// Where a blob is. Everything but plain characters is encoded, so that the name stays to the letter.
pub(super) fn uri_of(endpoint: &str, container: &str, key: &str) -> Result<Uri, ObjectError> {
    let mut text = format!("{endpoint}/{container}/");
    for byte in key.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text.parse().map_err(|error| ObjectError::Failed(format!("{container}/{key}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use reqsign_core::StaticEnv;

    use super::*;

    fn signed(variables: &[(&str, &str)]) -> Result<Uri, String> {
        let envs: HashMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sas = Sas::new(Context::new().with_env(StaticEnv { home_dir: None, envs }));
        let uri = uri_of("https://acc.blob.core.windows.net", "c", "d/ä b.bin").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(sas.sign(uri, Duration::from_secs(3600)))
    }

    #[test]
    fn an_address_reads_one_blob_and_nothing_else() {
        let account =
            [("AZURE_STORAGE_ACCOUNT_NAME", "acc"), ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0IGtleQ==")];
        let uri = signed(&account).unwrap();
        assert_eq!(uri.path(), "/c/d/%C3%A4%20b.bin");
        let query: HashMap<_, _> =
            url::form_urlencoded::parse(uri.query().unwrap().as_bytes()).into_owned().collect();
        assert_eq!((query["sp"].as_str(), query["sr"].as_str()), ("r", "b"), "{query:?}");
        assert!(query.contains_key("sig") && query.contains_key("se"), "{query:?}");
        assert!(!uri.to_string().contains("c2VjcmV0"));
    }

    #[test]
    fn a_token_of_somebodys_own_is_taken_as_it_is() {
        let uri = signed(&[("AZURE_STORAGE_SAS_TOKEN", "sv=1&sp=r&sig=x")]).unwrap();
        assert_eq!(uri.query(), Some("sv=1&sp=r&sig=x"));
    }

    #[test]
    fn without_credentials_nothing_is_signed() {
        assert!(signed(&[]).is_err());
    }
}
