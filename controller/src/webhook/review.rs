//! `AdmissionReview` of `admission.k8s.io/v1`: what an API server asks and how it is answered. What the answer is, is
//! the reviewer's decision.

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use vnpu_driver::admission::Operation;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What is decided about one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What becomes of it.
    pub decision: Decision,
    /// Stable word for the metrics: the rule that decided. Empty when none did.
    pub reason: &'static str,
    /// What its author should know.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Nothing to say.
    pub const fn allowed() -> Self {
        Self { decision: Decision::Allowed, reason: "", warnings: Vec::new() }
    }
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It stays as it is.
    Allowed,
    /// It is changed by this JSON patch (RFC 6902).
    Changed(Vec<Operation>),
    /// It is refused, with what to write instead.
    Denied(String),
}

impl Decision {
    /// Stable word for the metrics.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Changed(_) => "changed",
            Self::Denied(_) => "denied",
        }
    }
}

/// Why a request is none. The API server that sent it, or whoever passes for one, has to change it.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The body is no JSON.
    #[error("the body is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is another document.
    #[error("the body is {found}, this webhook answers {API_VERSION} {KIND}")]
    Document {
        /// What it is.
        found: String,
    },
    /// Something is missing that every request has.
    #[error("the review has no {0}")]
    Missing(&'static str),
}

impl ReviewError {
    /// Never: the same body is no better the next time.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Json(_) => "body_not_json",
            Self::Document { .. } => "body_other_document",
            Self::Missing(_) => "body_incomplete",
        }
    }
}

/// A request of an API server.
#[derive(Debug)]
pub struct Review(Value);

impl Review {
    /// Reads a request's body.
    ///
    /// # Errors
    /// It is no review that can be answered.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let mut review: Value = serde_json::from_slice(body)?;
        let word = |key: &str| review.get(key).and_then(Value::as_str).unwrap_or("(none)");
        let (version, kind) = (word("apiVersion"), word("kind"));
        if (version, kind) != (API_VERSION, KIND) {
            let found = format!("{version} {kind}").chars().take(120).collect();
            return Err(ReviewError::Document { found });
        }
        let request = review.get_mut("request").map(Value::take).filter(Value::is_object);
        let review = Self(request.ok_or(ReviewError::Missing("request"))?);
        if review.uid().is_empty() {
            return Err(ReviewError::Missing("request.uid"));
        }
        Ok(review)
    }

    /// The `request`: an object.
    pub const fn request(&self) -> &Value {
        &self.0
    }

    fn uid(&self) -> &str {
        self.0.get("uid").and_then(Value::as_str).unwrap_or_default()
    }

    /// The answer's body.
    ///
    /// # Errors
    /// The patch cannot be written down.
    pub fn answer(&self, verdict: &Verdict) -> Result<Vec<u8>, serde_json::Error> {
        let mut response = Response {
            uid: self.uid(),
            allowed: true,
            patch_type: None,
            patch: None,
            status: None,
            warnings: &verdict.warnings,
        };
        match &verdict.decision {
            Decision::Allowed => {}
            Decision::Changed(patch) => {
                let patch = serde_json::to_vec(patch)?;
                response.patch = Some(base64::engine::general_purpose::STANDARD.encode(patch));
                response.patch_type = Some("JSONPatch");
            }
            Decision::Denied(message) => {
                response.allowed = false;
                response.status = Some(Status { message, reason: "Invalid", code: 422 });
            }
        }
        serde_json::to_vec(&Answer { api_version: API_VERSION, kind: KIND, response })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Status<'a> {
    message: &'a str,
    reason: &'static str,
    code: u16,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review() -> Review {
        let body = json!({"apiVersion": API_VERSION, "kind": KIND, "request": {"uid": "u", "object": {}}});
        Review::read(body.to_string().as_bytes()).unwrap()
    }

    fn answer(verdict: &Verdict) -> Value {
        serde_json::from_slice(&review().answer(verdict).unwrap()).unwrap()
    }

    #[test]
    fn bodies_that_are_no_review_are_told_apart() {
        for (body, reason) in [
            ("", "body_not_json"),
            ("{", "body_not_json"),
            ("\u{0}", "body_not_json"),
            ("[]", "body_other_document"),
            ("null", "body_other_document"),
            (r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#, "body_other_document"),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, "body_incomplete"),
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":[]}"#,
                "body_incomplete",
            ),
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
                "body_incomplete",
            ),
        ] {
            assert_eq!(Review::read(body.as_bytes()).unwrap_err().reason(), reason, "{body}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(Review::read(deep.as_bytes()).unwrap_err().reason(), "body_not_json");
    }

    #[test]
    fn answers_have_the_form_that_api_servers_read() {
        assert_eq!(
            answer(&Verdict::allowed()),
            json!({"apiVersion": API_VERSION, "kind": KIND, "response": {"uid": "u", "allowed": true}})
        );
        let operations = vec![Operation::Add { path: "/a".to_owned(), value: json!(1) }];
        let changed =
            Verdict { decision: Decision::Changed(operations), reason: "r", warnings: vec!["w".to_owned()] };
        let response = answer(&changed)["response"].take();
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response["warnings"], json!(["w"]));
        let coded = response["patch"].as_str().unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(coded).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&decoded).unwrap(),
            json!([{"op": "add", "path": "/a", "value": 1}])
        );
        let denied =
            Verdict { decision: Decision::Denied("no".to_owned()), reason: "r", warnings: Vec::new() };
        let response = answer(&denied)["response"].take();
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"], json!({"message": "no", "reason": "Invalid", "code": 422}));
    }
}
