//! SLSA provenance v1: what an image was made from, and by what.
//! Source: slsa.dev/spec/v1.0/provenance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sbom::purl;
use super::statement::{Predicate, Resource};
use crate::lock::{LockFile, LockedPackage};

/// How the image was built: parameters and dependencies are to be read as this file writes them.
const BUILD_TYPE: &str = "urn:slipform:build-type:cast:v1";
const BUILDER: &str = "urn:slipform:builder";

/// The predicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// Inputs.
    pub build_definition: BuildDefinition,
    /// By what.
    pub run_details: RunDetails,
}

/// The inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// How to read the rest.
    pub build_type: String,
    /// What the user asked for.
    pub external_parameters: BTreeMap<String, serde_json::Value>,
    /// Everything that was read, by digest.
    pub resolved_dependencies: Vec<Resource>,
}

/// Who built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDetails {
    /// The program.
    pub builder: Builder,
}

/// The program that built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Builder {
    /// A URI.
    pub id: String,
    /// Versions of its parts.
    pub version: BTreeMap<String, String>,
}

impl Predicate for Provenance {
    const TYPE: &'static str = "https://slsa.dev/provenance/v1";
}

/// What the lock does not know of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFacts<'a> {
    /// The image's name.
    pub name: &'a str,
    /// The user's version.
    pub version: &'a str,
    /// The board.
    pub board: &'a str,
    /// A layer of it is for debugging.
    pub debug: bool,
    /// Version of Slipform.
    pub builder: &'a str,
    /// Further inputs by name: the user's files of each layer.
    pub sources: &'a [(String, crate::base::Digest)],
}

impl Provenance {
    /// What is known of a build from `lock`: the packages of this board and of all
    /// layers, the archives' states, init, and the user's own. Tools and other
    /// boards of the lock are no inputs of this image.
    #[must_use]
    pub fn of(facts: &BuildFacts<'_>, lock: &LockFile) -> Self {
        let mut inputs = vec![Resource::new("slipform-init", &lock.init.sha256)];
        for suite in &lock.suites {
            inputs.push(
                Resource::new(format!("suite {}", suite.name), &suite.release)
                    .with("date", suite.date),
            );
        }
        for board in lock.boards.iter().filter(|b| b.name == facts.board) {
            inputs.push(package(&board.kernel, "boot"));
            inputs.push(package(&board.stub, "boot"));
        }
        for layer in &lock.layers {
            inputs.extend(layer.base.iter().map(|base| {
                Resource::new(format!("base {}", base.written), &base.image)
                    .with("version", base.version.as_str())
            }));
            inputs.extend(layer.tar.iter().map(|tar| {
                Resource::new(format!("tar {} of {}", tar.path, layer.name), &tar.sha256)
            }));
            inputs.extend(layer.oci.iter().map(|container| {
                let name = format!("container {} of {}", container.image, layer.name);
                Resource::new(name, &container.sha256)
            }));
            inputs.extend(layer.packages.iter().map(|p| package(p, &layer.name)));
        }
        for (name, digest) in facts.sources {
            inputs.push(Resource::new(name, digest));
        }
        let parameters = [
            ("name", facts.name),
            ("version", facts.version),
            ("board", facts.board),
        ];
        let mut parameters = BTreeMap::from(
            parameters.map(|(key, value)| (key.to_owned(), serde_json::Value::from(value))),
        );
        if facts.debug {
            parameters.insert("debug".to_owned(), true.into());
        }
        Self {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: parameters,
                resolved_dependencies: inputs,
            },
            run_details: RunDetails {
                builder: Builder {
                    id: BUILDER.to_owned(),
                    version: BTreeMap::from([("slipform".to_owned(), facts.builder.to_owned())]),
                },
            },
        }
    }
}

fn package(package: &LockedPackage, layer: &str) -> Resource {
    Resource {
        uri: purl(package),
        ..Resource::new(&package.name, &package.sha256)
    }
    .with("layer", layer)
    .with("suite", package.suite.as_str())
    .with("path", package.path.as_str())
}
