//! `GenericDevices` (`vnpu.dev/v1alpha1`): the file that describes a vendor's devices on a node. Reading is strict;
//! whether a single device can be used is found out at every look (`scan.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The version of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one.
    #[serde(rename = "vnpu.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Kind {
    /// The only one.
    GenericDevices,
}

/// Whether a device may be given out in parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Only whole.
    #[default]
    Whole,
    /// In shares of memory and cores that the scheduler counts. **Nothing holds a program to its share**: it can use
    /// all of the device.
    Counted,
}

/// A value, written here or read from a file on the node (such as an attribute in `/sys`) at every look.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(untagged)]
pub enum Text {
    /// The value itself.
    Literal(String),
    /// In a file.
    File(TextFile),
}

/// The file that holds a value: its first line counts, without blanks around it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextFile {
    /// Absolute path on the node.
    pub file: PathBuf,
}

/// By hand, because a derived untagged enum says neither the line nor the field.
struct TextReader {
    /// Whether whole numbers are taken. Not for identities and versions: YAML reads `0x10`, `0o7` and `010` as other
    /// numbers than were written.
    numbers: bool,
}

impl<'de> Visitor<'de> for TextReader {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or {file: /absolute/path}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Literal(text.to_owned()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Text, E> {
        if self.numbers { Ok(Text::Literal(number.to_string())) } else { Err(E::custom(UNQUOTED)) }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Text, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom(UNQUOTED)),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Text, E> {
        Err(E::custom(UNQUOTED))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "file" {
                return Err(A::Error::unknown_field(&key, &["file"]));
            }
            found = Some(map.next_value::<AbsolutePath>()?.0);
        }
        let file = found.ok_or_else(|| A::Error::missing_field("file"))?;
        Ok(Text::File(TextFile { file }))
    }
}

const UNQUOTED: &str = "a text that looks like a number must be quoted";

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextReader { numbers: false })
    }
}

/// A quantity, which may be a bare number.
fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text>, D::Error> {
    deserializer.deserialize_any(TextReader { numbers: true }).map(Some)
}

fn quantity_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let text = generator.subschema_for::<Text>();
    schemars::json_schema!({ "anyOf": [text, { "type": "integer", "minimum": 0 }] })
}

/// A path that means the same whatever the working directory is.
struct AbsolutePath(PathBuf);

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        absolute(deserializer).map(Self)
    }
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(D::Error::custom(format!("{:?} must be an absolute path", path.display().to_string())))
    }
}

/// Where the health of a device, or of all devices, stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthFile {
    /// Absolute path on the node. Its first line, without blanks around it, is one of `healthy`, or it says what is
    /// wrong. Empty, missing or unreadable: the health is unknown.
    #[serde(deserialize_with = "absolute")]
    pub file: PathBuf,
    /// The words that mean that nothing is wrong.
    #[serde(default = "healthy_words")]
    pub healthy: Vec<String>,
}

fn healthy_words() -> Vec<String> {
    vec!["ok".to_owned(), "healthy".to_owned()]
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenericDevice {
    /// Number of the device, unique in the file; the `<card>` of its name `chip-<card>-0`. Never give a device the
    /// number of another.
    pub card: u32,
    /// The hardware's own identity (a serial number): 1 to 64 letters, digits, `-`, `_` and `.`, on no other device.
    pub uuid: Text,
    /// The device's own device nodes, below the host's `/dev`: `acme0`, `acme/render0`. At least one.
    pub nodes: Vec<String>,
    /// PCI address, `0000:81:00.0`.
    #[serde(default)]
    pub pci: Option<String>,
    /// NUMA node; without it, what the kernel says of the PCI address.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// Device memory, a Kubernetes quantity such as `64Gi`; without it that of the file.
    #[serde(default, deserialize_with = "quantity")]
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Option<Text>,
    /// Whether it may be given out in parts; without it as the file says.
    #[serde(default)]
    pub sharing: Option<Sharing>,
    /// The same word for devices that the vendor's own links join; at most 64 bytes.
    #[serde(default)]
    pub link_group: String,
    /// Where its health stands; without it as the file says.
    #[serde(default)]
    pub health: Option<HealthFile>,
}

/// All devices of one vendor on a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenericDevices {
    /// `vnpu.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// `GenericDevices`.
    pub kind: Kind,
    /// The vendor: a DNS label of at most 32 characters, neither `ascend` nor `nvidia`. It ends the pool's name.
    pub vendor: String,
    /// The model in the field's words, such as `A10`; at most 64 bytes are published.
    #[serde(default)]
    pub model: String,
    /// The vendor's product string; at most 64 bytes are published.
    #[serde(default)]
    pub product_name: String,
    /// The driver's version.
    #[serde(default)]
    pub driver_version: Option<Text>,
    /// Memory of devices that do not say their own.
    #[serde(default, deserialize_with = "quantity")]
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Option<Text>,
    /// Whether devices may be given out in parts, where they do not say it themselves.
    #[serde(default)]
    pub sharing: Sharing,
    /// Where the health of devices stands that do not say it themselves. Without it they are healthy as long as their
    /// device nodes exist.
    #[serde(default)]
    pub health: Option<HealthFile>,
    /// Device nodes that every container with a device gets, below the host's `/dev`, where they exist.
    #[serde(default)]
    pub control_nodes: Vec<String>,
    /// Files and directories of the driver that containers see, read-only and at the same paths: absolute, below the
    /// driver root; `*` stands for any characters of one name.
    #[serde(default)]
    pub mounts: Vec<PathBuf>,
    /// The devices.
    pub devices: Vec<GenericDevice>,
}

impl GenericDevices {
    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong, with the line, in one line.
    pub fn read(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| in_one_line(&error))
    }

    /// Where the health of the devices stands, each file once.
    pub(crate) fn health_files(&self) -> Vec<PathBuf> {
        let health = self.devices.iter().filter_map(|device| device.health.as_ref().or(self.health.as_ref()));
        let files: BTreeSet<&PathBuf> = health.map(|health| &health.file).collect();
        files.into_iter().cloned().collect()
    }

    /// The JSON schema of the file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

fn in_one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}
