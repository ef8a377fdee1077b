//! Flags of commands that read from elsewhere than registries; credentials are in the environment or in files.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use http::HeaderValue;

use super::address::{Address, ObjectAddress};
use super::{Filters, ObjectError};

/// Longest header that is read of a file.
const AUTHORIZATION_BYTES_MAX: u64 = 16 << 10;

/// How a storage service is reached, and what web servers are shown.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StorageArgs {
    /// Of an object: where the storage service is, such as http://10.0.0.5:9000 [default: where its variables say, or the provider's]
    #[arg(long, value_name = "URL")]
    pub(super) storage_endpoint: Option<String>,
    /// Of an object: the region of its bucket [default: where its variables say]
    #[arg(long, value_name = "REGION")]
    pub(super) storage_region: Option<String>,
    /// Of an object that anyone may read: look for no credentials and sign nothing
    #[arg(long)]
    pub(super) storage_anonymous: bool,
    /// Show a web server what is in this file as the header `Authorization`, such as `Bearer …`
    #[arg(long, value_name = "FILE")]
    pub(super) authorization_file: Option<PathBuf>,
}

/// Which objects of a directory are wanted.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SelectArgs {
    /// Take all that is below it: s3://BUCKET/DIRECTORY/, hf://OWNER/NAME, or a directory of a web server
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Of all that is below, take only what fits this pattern, such as '*.safetensors' or 'dir/**'; may be repeated
    #[arg(long, value_name = "PATTERN", requires = "recursive")]
    pub(crate) include: Vec<String>,
    /// Leave out what fits this pattern; may be repeated
    #[arg(long, value_name = "PATTERN", requires = "recursive")]
    pub(crate) exclude: Vec<String>,
}

impl SelectArgs {
    /// The patterns, read.
    ///
    /// # Errors
    /// One makes no sense.
    pub(crate) fn filters(&self) -> Result<Filters, ObjectError> {
        Filters::new(&self.include, &self.exclude).map_err(ObjectError::Usage)
    }
}

impl StorageArgs {
    /// Whether the flags have a meaning for an address.
    pub(super) fn check(&self, address: &Address) -> Result<(), ObjectError> {
        let is_object = matches!(address, Address::Object(ObjectAddress { .. }));
        let of_objects = [
            ("--storage-endpoint", self.storage_endpoint.is_some()),
            ("--storage-region", self.storage_region.is_some()),
            ("--storage-anonymous", self.storage_anonymous),
        ];
        let needless = match address {
            _ if is_object => self.authorization_file.is_some().then_some("--authorization-file"),
            Address::Hub(_) | Address::Hdfs(_) if self.authorization_file.is_some() => {
                Some("--authorization-file")
            }
            _ => of_objects.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag),
        };
        match needless {
            Some(flag) => Err(ObjectError::Usage(format!("{flag} has no meaning for {address}"))),
            None => Ok(()),
        }
    }

    /// That none of those of objects is given, where there is no object.
    pub(crate) fn check_no_object(&self) -> Result<(), ObjectError> {
        if self.storage_endpoint.is_some() || self.storage_region.is_some() || self.storage_anonymous {
            let message = "--storage-endpoint, --storage-region and --storage-anonymous are for objects, such as s3://BUCKET/NAME";
            return Err(ObjectError::Usage(message.into()));
        }
        Ok(())
    }

    /// What a web server is shown, if a file was named.
    ///
    /// # Errors
    /// The file cannot be read, or holds no header.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, ObjectError> {
        let Some(path) = &self.authorization_file else { return Ok(None) };
        let failed =
            |why: &str| ObjectError::Failed(format!("--authorization-file {}: {why}", path.display()));
        let mut text = String::new();
        let file = File::open(path).map_err(|error| failed(&error.to_string()))?;
        let read = file.take(AUTHORIZATION_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| failed(&error.to_string()))?;
        let text = text.trim();
        if text.is_empty() || text.len() as u64 > AUTHORIZATION_BYTES_MAX {
            return Err(failed("expected one line, such as: Bearer TOKEN"));
        }
        let mut value =
            HeaderValue::try_from(text).map_err(|_| failed("expected one line, such as: Bearer TOKEN"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_without_a_meaning_is_refused() {
        let check = |address: &str, options: StorageArgs, expected: bool| {
            let parsed = Address::parse(address, true).unwrap().unwrap();
            assert_eq!(options.check(&parsed).is_ok(), expected, "{address} {options:?}");
        };
        let file = || StorageArgs { authorization_file: Some("/f".into()), ..StorageArgs::default() };
        let endpoint = || StorageArgs { storage_endpoint: Some("http://h".into()), ..StorageArgs::default() };
        check("s3://b/d", endpoint(), true);
        check("s3://b/d", file(), false);
        check("https://h/d", file(), true);
        check("https://h/d", endpoint(), false);
        check("hf://o/n", file(), false);
        check("hf://o/n", endpoint(), false);
        assert!(endpoint().check_no_object().is_err() && file().check_no_object().is_ok());
    }

    #[test]
    fn what_is_shown_is_one_line_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let check = |text: &str, expected: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            let options = StorageArgs { authorization_file: Some(path.clone()), ..StorageArgs::default() };
            let read = options.authorization().ok().flatten();
            assert_eq!(read.as_ref().map(|value| value.to_str().unwrap()), expected, "{text:?}");
            assert!(read.is_none_or(|value| value.is_sensitive()));
        };
        check("Bearer abc\n", Some("Bearer abc"));
        check("", None);
        check("a\nb", None);
    }
}
