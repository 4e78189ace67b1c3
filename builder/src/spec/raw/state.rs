//! `[state]` as written.

use schemars::JsonSchema;
use serde::Deserialize;

/// Folders that persist, on a partition of their own: the last on the boot disk, made and filled at the machine's first boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawState {
    /// Folders that are kept, such as `"/var/lib/app"` or `{ path = "/var/lib/app", owner = "app:app", mode = "0750", quota = "32MiB" }`.
    pub paths: Vec<RawStatePath>,
    /// Least size; the image's disk gets so much longer. A larger disk gives all that it has. Default: `"64MiB"`.
    pub size: Option<String>,
    /// A disk of its own instead: `{ serial = "data" }` or `{ label = "data" }`.
    pub disk: Option<RawStateDisk>,
    /// When the state cannot be mounted: `fail` (default) ends the boot with an error and touches nothing; `recreate` makes a new, empty one and reports it.
    pub policy: Option<RawStatePolicy>,
    /// Version of what your programs keep there; count it up when older ones cannot read it any more. An image with a lower version refuses the state. Default: 1.
    pub version: Option<u32>,
}

/// A folder that is kept: its path, or a table with more.
#[derive(Debug)]
pub struct RawStatePath {
    /// Absolute path in the image.
    pub path: String,
    /// `user:group`, set at every boot. Default: as in the layers, set at first use.
    pub owner: Option<String>,
    /// Mode in octal, set at every boot. Default: as in the layers, set at first use.
    pub mode: Option<String>,
    /// Most that may be kept below it.
    pub quota: Option<String>,
}

/// [`RawStatePath`] as a table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawStateFolder {
    /// Absolute path in the image. What the image has in this folder is copied at first use.
    path: String,
    /// `user:group`, set at every boot. Default: as in the layers, set at first use.
    owner: Option<String>,
    /// Mode in octal, set at every boot. Default: as in the layers, set at first use.
    mode: Option<String>,
    /// Most that may be kept below it, such as `"32MiB"`; more is refused to the program (EDQUOT). Without: all that the state has. Only a state that is made with an image that has quotas can have any.
    quota: Option<String>,
}

/// By hand: what serde derives for a choice forgets which key was wrong.
impl<'de> Deserialize<'de> for RawStatePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawStatePath;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a path, or a table such as { path = \"/var/lib/app\", owner = \"app:app\" }",
                )
            }

            fn visit_str<E>(self, path: &str) -> Result<RawStatePath, E> {
                Ok(RawStatePath {
                    path: path.to_owned(),
                    owner: None,
                    mode: None,
                    quota: None,
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<RawStatePath, A::Error> {
                let table = serde::de::value::MapAccessDeserializer::new(map);
                let folder = RawStateFolder::deserialize(table)?;
                Ok(RawStatePath {
                    path: folder.path,
                    owner: folder.owner,
                    mode: folder.mode,
                    quota: folder.quota,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for RawStatePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawStatePath".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let folder = generator.subschema_for::<RawStateFolder>();
        schemars::json_schema!({
            "description": "A folder that is kept: its path, or a table with more.",
            "anyOf": [{ "type": "string" }, folder],
        })
    }
}

/// A disk, or a partition of one, that holds the state and nothing else. Name one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStateDisk {
    /// Its serial number, as `lsblk -o SERIAL` shows it; 1 to 20 letters, digits, `-` or `_`. A blank disk is formatted at first boot.
    pub serial: Option<String>,
    /// What somebody wrote on it: the label of an empty ext4 on a whole disk or a partition (`mkfs.ext4 -L data /dev/X`), or the name of a blank partition (`sgdisk -n 1 -c 1:data /dev/X`), which is formatted at first boot. The boot disk is not looked at; with two of that label the machine does not start. 1 to 16 letters, digits, `-` or `_`. Not together with `policy = "recreate"`.
    pub label: Option<String>,
}

/// When the state cannot be mounted.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawStatePolicy {
    /// The boot ends with an error.
    Fail,
    /// A new one is made.
    Recreate,
}
