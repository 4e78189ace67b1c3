//! `slipform key`: the key that attestations are signed with. And for the other
//! verbs: the signer that their flags name.

use std::path::PathBuf;

use super::args::{Cli, Key, KeyNew, KeyShow, KeyVerb, Signing};
use super::{BadInput, Done, print, print_json};
use crate::attest::{
    CommandSigner, KeyFile, PASSPHRASE, PassphraseSource, PublicKey, Signer, public_path,
};
use crate::sources::Host;

/// Makes or shows a key.
pub(crate) fn run(cli: &Cli, verb: &Key) -> anyhow::Result<Done> {
    match &verb.verb {
        KeyVerb::New(new) => make(cli, new),
        KeyVerb::Show(show_it) => show(cli, show_it),
    }
}

/// The user's key file, whether it is there or not.
pub(crate) fn own_key(host: &Host) -> anyhow::Result<PathBuf> {
    let folder = host
        .config_folder()
        .ok_or(crate::attest::AttestError::NoPlace)?;
    Ok(folder.join("key.pem"))
}

/// Who signs, from a verb's flags: a command, the named key, or the user's own.
/// `None` when nothing is named and the user has no key.
pub(crate) fn signer(signing: &Signing) -> anyhow::Result<Option<Box<dyn Signer>>> {
    let host = Host::real();
    if let Some(command) = &signing.signer {
        let file = signing.key.as_ref().ok_or_else(|| {
            BadInput(
                "--signer needs the public key that its signatures verify with: --key PUB"
                    .to_owned(),
            )
        })?;
        let keys = PublicKey::load(file)?;
        let [public] = keys.as_slice() else {
            let message = format!(
                "{} has several keys; name the signer's only",
                file.display()
            );
            return Err(BadInput(message).into());
        };
        return Ok(Some(Box::new(CommandSigner::new(command, public.clone()))));
    }
    let path = match &signing.key {
        Some(path) => path.clone(),
        None => {
            let own = own_key(&host)?;
            if !own.exists() {
                return Ok(None);
            }
            own
        }
    };
    let source = PassphraseSource::choose(signing.passphrase_fd, host.var(PASSPHRASE))?;
    let what = path.display().to_string();
    let key = KeyFile::load(&path, || source.get(&what, false))?;
    Ok(Some(Box::new(key)))
}

/// The signer that the flags name; the user's own key must be asked for by name here.
pub(crate) fn named_signer(signing: &Signing) -> anyhow::Result<Option<Box<dyn Signer>>> {
    if signing.key.is_none() && signing.signer.is_none() {
        return Ok(None);
    }
    signer(signing)
}

/// As [`signer`], for verbs that cannot do without.
pub(crate) fn must_sign(signing: &Signing) -> anyhow::Result<Box<dyn Signer>> {
    signer(signing)?.ok_or_else(|| {
        BadInput(
            "there is no key to sign with; make one with `slipform key new`, or name one with --key"
                .to_owned(),
        )
        .into()
    })
}

fn make(cli: &Cli, verb: &KeyNew) -> anyhow::Result<Done> {
    let host = Host::real();
    let path = match &verb.out {
        Some(path) => path.clone(),
        None => own_key(&host)?,
    };
    if public_path(&path) == path {
        let message = format!(
            "{} is the name of the public half; name the private one, such as key.pem",
            path.display()
        );
        return Err(BadInput(message).into());
    }
    let key = KeyFile::generate()?;
    let passphrase = if verb.no_passphrase {
        None
    } else {
        let source = PassphraseSource::choose(verb.passphrase_fd, host.var(PASSPHRASE))?;
        Some(source.get(&path.display().to_string(), true)?)
    };
    let public = key.create(&path, passphrase.as_ref())?;
    let id = key.public().id();
    if cli.json {
        return print_json(&serde_json::json!({
            "key": path, "public": public, "id": id,
            "encrypted": passphrase.is_some(), "pem": key.public().to_pem(),
        }));
    }
    print(&format!(
        "made {} and {}\nid   {id}\nnext: commit {} beside slipform.toml and name it under [gate]: keys = [\"…\"]",
        path.display(),
        public.display(),
        public.display()
    ))
}

fn show(cli: &Cli, verb: &KeyShow) -> anyhow::Result<Done> {
    let host = Host::real();
    let path = match verb.file.as_ref().or(verb.signing.key.as_ref()) {
        Some(path) => path.clone(),
        None => own_key(&host)?,
    };
    // The public half says it without a passphrase.
    let public = public_path(&path);
    let key = if verb.signing.signer.is_some() || !public.exists() && path != public {
        let signing = Signing {
            key: Some(path.clone()),
            ..verb.signing.clone()
        };
        prove(signer(&signing)?)?
    } else {
        PublicKey::load(&public)?.into_iter().next()
    };
    let key = key.ok_or_else(|| BadInput(format!("{} has no key", path.display())))?;
    if cli.json {
        return print_json(&serde_json::json!({
            "id": key.id(), "fingerprint": key.fingerprint(), "pem": key.to_pem(),
        }));
    }
    print(&format!("{}id {}\n", key.to_pem(), key.id()))
}

/// The public half of a signer that has just shown that it signs.
fn prove(signer: Option<Box<dyn Signer>>) -> anyhow::Result<Option<PublicKey>> {
    let Some(signer) = signer else {
        return Ok(None);
    };
    signer.sign(b"slipform key show")?;
    Ok(Some(signer.public().clone()))
}
