//! ResourceQuotas that limit chips and not the modules that chips become: the quota does not see those.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use vnpu_driver::admission::class::{IMPLICIT_RESOURCE, NPU, NPU_MODULE, NPU_MODULE_RESOURCE};
use vnpu_driver::controller_config::ControllerConfig;

use super::read::Document;
use super::subject;

/// What a quota calls the devices of a class (`pkg/quota/v1/evaluator/core/resource_claims.go`).
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";

/// What a namespace limits, and where it says so.
#[derive(Default)]
struct Limits<'a> {
    keys: BTreeSet<&'a str>,
    /// The first quota that limits the class.
    by_class: BTreeMap<&'a str, &'a Document>,
}

/// One warning per namespace and class.
pub(super) fn warnings(documents: &[Document], config: &ControllerConfig, namespace: &str) -> Vec<String> {
    let own = config.classes.modules_of.iter().map(|(chips, modules)| (chips.as_str(), modules.as_str()));
    let classes: Vec<(&str, &str)> = [(NPU, NPU_MODULE)].into_iter().chain(own).collect();
    let mut limits: BTreeMap<String, Limits<'_>> = BTreeMap::new();
    for document in documents {
        let object = &document.object;
        if object.get("kind").and_then(Value::as_str) != Some("ResourceQuota") {
            continue;
        }
        let here = limits.entry(subject::namespace(object, namespace)).or_default();
        let hard = object.pointer("/spec/hard").and_then(Value::as_object);
        for key in hard.into_iter().flat_map(|h| h.keys()) {
            here.keys.insert(key);
            for (chips, _) in classes.iter().filter(|(chips, _)| names(chips).contains(key)) {
                here.by_class.entry(chips).or_insert(document);
            }
        }
    }
    let mut warnings = Vec::new();
    for (namespace, here) in &limits {
        for (chips, modules) in &classes {
            let Some(document) = here.by_class.get(chips) else { continue };
            if !names(modules).iter().any(|name| here.keys.contains(name.as_str())) {
                warnings.push(format!(
                    "{}:{}: {}: the namespace {namespace} limits {chips} and not {modules}: an even number of whole chips \
                     becomes modules, which no quota counts then; limit {modules}{DEVICES} too",
                    document.file,
                    document.line,
                    subject::title(&document.object)
                ));
            }
        }
    }
    warnings
}

/// What a quota may call the devices of a class.
fn names(class: &str) -> Vec<String> {
    let mut names = vec![format!("{class}{DEVICES}"), format!("requests.{IMPLICIT_RESOURCE}{class}")];
    if class == NPU_MODULE {
        names.push(format!("requests.{NPU_MODULE_RESOURCE}"));
    }
    names
}
