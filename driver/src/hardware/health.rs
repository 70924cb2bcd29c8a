//! What is wrong with a chip, in codes that a table can judge and in words for people.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// One thing that is wrong with a chip, by the word of its vendor's library or of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// What it is called, the most special name first: `0x80e01801`, `alarm-3`. Lower case, no blanks. Rules of the
    /// [`HealthPolicy`](crate::health::HealthPolicy) go by them. Empty when it has no name.
    #[serde(default)]
    pub codes: Vec<String>,
    /// The same in words.
    pub message: String,
}

impl Fault {
    /// A fault of one code.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { codes: vec![code.to_owned()], message: message.into() }
    }
}

/// What the vendor's library says of a chip's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing is wrong.
    Healthy,
    /// The library reports faults, at least one.
    Unhealthy(#[serde(deserialize_with = "faults_or_text")] Vec<Fault>),
    /// The library could not tell (a call failed or hung); the text is for people.
    Unknown(String),
}

impl Health {
    /// Unhealthy by one fault.
    pub fn fault(code: &str, message: impl Into<String>) -> Self {
        Self::Unhealthy(vec![Fault::new(code, message)])
    }
}

impl fmt::Display for Health {
    /// `healthy`, or what is wrong in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Unknown(why) => f.write_str(why),
            Self::Unhealthy(faults) => {
                for (index, fault) in faults.iter().enumerate() {
                    let between = if index == 0 { "" } else { "; " };
                    write!(f, "{between}{}", fault.message)?;
                }
                Ok(())
            }
        }
    }
}

/// Records of earlier versions have a text there.
fn faults_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Fault>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Faults(Vec<Fault>),
        Text(String),
    }
    Ok(match Written::deserialize(from)? {
        Written::Faults(faults) => faults,
        Written::Text(message) => vec![Fault { codes: Vec::new(), message }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_earlier_versions_are_read() {
        let earlier: Health = serde_json::from_str(r#"{"unhealthy":"HBM"}"#).unwrap();
        assert_eq!(earlier, Health::Unhealthy(vec![Fault { codes: vec![], message: "HBM".to_owned() }]));
        for health in
            [Health::Healthy, Health::fault("xid-79", "off the bus"), Health::Unknown("hangs".to_owned())]
        {
            let text = serde_json::to_string(&health).unwrap();
            assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), health);
        }
    }

    #[test]
    fn faults_are_told_one_after_the_other() {
        let both = vec![Fault::new("a", "one thing"), Fault::new("b", "another")];
        assert_eq!(Health::Unhealthy(both).to_string(), "one thing; another");
    }
}
