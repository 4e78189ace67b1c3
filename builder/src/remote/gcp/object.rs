//! Objects of a bucket.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, LOCATION, RANGE};

use super::call::{GcpCall, Service};
use super::{Gcp, LIMIT};
use crate::base::base64;
use crate::remote::RemoteError;
use crate::remote::http::{Answer, Call, Payload, Trouble, again, header, read_all, strict};
use crate::sources::uri::Uri;

/// Parts of an upload are a multiple of this, but for the last.
const STEP: u64 = 256 * 1024;
/// How often an upload is begun that the service has forgotten.
const BEGINNINGS: u32 = 3;
/// The metadata that tells what an object is of.
const IMAGE: &str = "slipform-image";

/// An object to be.
#[derive(Debug, Clone)]
pub struct NewObject<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// What it is of.
    pub image: String,
    /// Its bytes.
    pub size: u64,
    /// Their CRC-32C.
    pub sum: u32,
}

/// An object as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub size: u64,
    /// Their CRC-32C, as the service counted it.
    pub sum: Option<u32>,
    /// What its metadata says that it is of.
    pub image: Option<String>,
}

impl Object {
    fn of(value: &Value) -> Option<Self> {
        let sum = value["crc32c"].as_str().and_then(base64::decode);
        let sum = sum.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        Some(Self {
            size: value["size"].as_str()?.parse().ok()?,
            sum,
            image: value["metadata"][IMAGE].as_str().map(str::to_owned),
        })
    }
}

fn path(bucket: &str, name: &str) -> String {
    format!("/storage/v1/b/{}/o/{}", strict(bucket), strict(name))
}

/// `objects.get`.
#[must_use]
pub fn get_object(bucket: &str, name: &str) -> GcpCall {
    GcpCall::new("objects.get", Service::Storage, name, path(bucket, name))
}

/// `objects.insert` in parts, where there is no object of that name.
#[must_use]
pub fn begin_upload(new: &NewObject<'_>) -> GcpCall {
    let bucket = strict(new.bucket);
    let path = format!(
        "/upload/storage/v1/b/{bucket}/o?uploadType=resumable&ifGenerationMatch=0&name={}",
        strict(new.name)
    );
    let body = json!({
        "name": new.name,
        "contentType": "application/gzip",
        "crc32c": base64::encode(&new.sum.to_be_bytes()),
        "metadata": { IMAGE: new.image },
    });
    GcpCall::new("objects.insert", Service::Storage, new.name, path).json(&body)
}

/// Where an upload is.
struct Upload<'a> {
    new: &'a NewObject<'a>,
    file: &'a File,
    /// Its address, which is a secret: whoever knows it can write to it.
    session: RefCell<Option<Uri>>,
    /// Bytes that the service has.
    at: Cell<u64>,
    /// Whether that is known: not behind a cut.
    sure: Cell<bool>,
    begun: Cell<u32>,
}

impl Gcp {
    /// An object as it is there; nothing when there is none.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn object(&self, bucket: &str, name: &str) -> Result<Option<Object>, RemoteError> {
        let call = get_object(bucket, name);
        let (status, value) = self.ask(&call, &[200, 404])?;
        if status == 404 {
            return Ok(None);
        }
        let object = Object::of(&value);
        object
            .ok_or_else(|| self.malformed(call.action, "it has no size"))
            .map(Some)
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn remove_object(&self, bucket: &str, name: &str) -> Result<(), RemoteError> {
        let call = GcpCall::new("objects.delete", Service::Storage, name, path(bucket, name));
        self.ask(&call.method(Method::DELETE), &[200, 204, 404])
            .map(drop)
    }

    /// Sends a file in parts. What a cut leaves open goes on with the first byte that the
    /// service has not. `false` when there was an object of that name.
    ///
    /// # Errors
    /// [`RemoteError`]; the service compares the bytes with their sum.
    pub fn upload(
        &self,
        new: &NewObject<'_>,
        file: &File,
        sent: &dyn Fn(u64),
    ) -> Result<bool, RemoteError> {
        let upload = Upload {
            new,
            file,
            session: RefCell::default(),
            at: Cell::new(0),
            sure: Cell::new(true),
            begun: Cell::new(0),
        };
        let operation = format!("send {}", new.name);
        let progress = || upload.at.get();
        self.http.persist(&operation, &self.name, &progress, || {
            loop {
                if let Some(made) = self.step(&upload, &operation, sent)? {
                    return Ok(made);
                }
            }
        })
    }

    /// Begins, asks how far it is, or sends a part; something once it has ended.
    fn step(
        &self,
        upload: &Upload<'_>,
        operation: &str,
        sent: &dyn Fn(u64),
    ) -> Result<Option<bool>, Trouble> {
        let session = upload.session.borrow().clone();
        let Some(session) = session else {
            return self.begin(upload);
        };
        let (at, size) = (upload.at.get(), upload.new.size);
        let mut part = Vec::new();
        let range = if upload.sure.get() {
            let step = self.http.options.part.max(STEP) / STEP * STEP;
            let length = step.min(size - at);
            part.resize(usize::try_from(length).unwrap_or_default(), 0);
            let read = upload.file.read_exact_at(&mut part, at);
            read.map_err(|source| RemoteError::Write {
                what: upload.new.name.to_owned(),
                source,
            })?;
            format!("bytes {at}-{}/{size}", at + length - 1)
        } else {
            format!("bytes */{size}")
        };
        let call = Call::new(Method::PUT, session)
            .with(CONTENT_RANGE, range)
            .body(Payload::Bytes(&part));
        // The address alone opens it; and what comes of a cut is not known.
        upload.sure.set(false);
        let answer = self.http.send(&call, &[])?;
        match answer.status().as_u16() {
            200 | 201 => {
                sent(size - at);
                Ok(Some(true))
            }
            308 => {
                let has = persisted(&answer);
                if has < at || has > size {
                    let why = format!("it says that it has {has} of {size} bytes, and had {at}");
                    return Err(self.malformed(operation, &why).into());
                }
                sent(has - at);
                upload.at.set(has);
                upload.sure.set(true);
                if has == at && !part.is_empty() {
                    return Err(again("it took nothing of a part"));
                }
                Ok(None)
            }
            412 => Ok(Some(false)),
            404 | 410 if upload.begun.get() < BEGINNINGS => {
                upload.session.replace(None);
                Err(again("the service has forgotten the upload"))
            }
            _ => Err(self.refused(operation, answer)),
        }
    }

    fn begin(&self, upload: &Upload<'_>) -> Result<Option<bool>, Trouble> {
        let call = begin_upload(upload.new);
        let session = self.ask_for(&call, &[200, 412], |answer| {
            if answer.status() == 412 {
                return Ok(None);
            }
            let session = header(&answer, &LOCATION).map(Uri::parse);
            let session = session.and_then(Result::ok);
            let session = session.ok_or_else(|| self.malformed(call.action, "it has no address"));
            // Read to its end, so that the connection can be used again.
            read_all(answer, LIMIT, call.action)?;
            Ok(Some(session?))
        })?;
        let Some(session) = session else {
            return Ok(Some(false));
        };
        upload.session.replace(Some(session));
        upload.begun.set(upload.begun.get() + 1);
        upload.at.set(0);
        upload.sure.set(true);
        Ok(None)
    }
}

/// How many bytes an unfinished upload has: `Range: bytes=0-N`.
fn persisted(answer: &Answer) -> u64 {
    let range = header(answer, &RANGE).and_then(|range| range.strip_prefix("bytes=0-"));
    let last = range.and_then(|last| last.trim().parse::<u64>().ok());
    last.map_or(0, |last| last.saturating_add(1))
}
