//! What the webhooks look up, kept from what the planner watches: classes, claims and templates by name, and leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use vnpu_driver::admission::{ClaimFacts, ClassFacts, Known};
use vnpu_driver::id::NodeName;
use vnpu_placement::demand::ClaimSpec;
use vnpu_placement::{LEAF_LABEL, preferred_leaf};

use super::desk::Change;
use super::store::Named;
use crate::webhook::lookup::Lookup;

/// The facts; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Facts(Arc<RwLock<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    classes: BTreeMap<String, ClassFacts>,
    claims: BTreeMap<Named, (Arc<BTreeSet<String>>, bool)>,
    templates: BTreeMap<Named, Arc<BTreeSet<String>>>,
    leaves: BTreeMap<NodeName, String>,
    /// Equal sets of classes are kept once.
    sets: BTreeSet<Arc<BTreeSet<String>>>,
}

impl Facts {
    /// Takes in what was observed.
    pub fn learn(&self, change: &Change) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).learn(change);
    }

    /// Forgets sets of classes that nothing uses any more. To be called now and then.
    pub fn tidy(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).sets.retain(|set| Arc::strong_count(set) > 1);
    }

    fn look<T>(&self, question: impl FnOnce(&Kept) -> T) -> T {
        question(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn learn(&mut self, change: &Change) {
        match change {
            Change::Node(node) => match node.labels.get(LEAF_LABEL) {
                Some(leaf) => _ = self.leaves.insert(node.name.clone(), leaf.clone()),
                None => _ = self.leaves.remove(&node.name),
            },
            Change::NodeGone(name) => _ = self.leaves.remove(name),
            Change::Class(seen) => {
                let facts = ClassFacts {
                    selectors: seen.class.selectors.clone(),
                    policies: seen.policies.clone(),
                    extended_resource: seen.extended_resource.clone(),
                };
                self.classes.insert(seen.class.name.clone(), facts);
            }
            Change::ClassGone(name) => _ = self.classes.remove(name),
            Change::Claim(name, claim) => {
                let classes = self.classes_of(&claim.spec);
                self.claims.insert(name.clone(), (classes, claim.allocated.is_some()));
            }
            Change::ClaimGone(name) => _ = self.claims.remove(name),
            Change::Template(name, spec) => {
                let classes = self.classes_of(spec);
                self.templates.insert(name.clone(), classes);
            }
            Change::TemplateGone(name) => _ = self.templates.remove(name),
            _ => {}
        }
    }

    fn classes_of(&mut self, spec: &ClaimSpec) -> Arc<BTreeSet<String>> {
        let asks = spec.requests.iter().flat_map(|request| &request.alternatives);
        let set = Arc::new(asks.map(|ask| ask.class.clone()).collect::<BTreeSet<_>>());
        match self.sets.get(&set) {
            Some(known) => known.clone(),
            None => {
                self.sets.insert(set.clone());
                set
            }
        }
    }
}

impl Known for Facts {
    fn class(&self, name: &str) -> Option<ClassFacts> {
        self.look(|kept| kept.classes.get(name).cloned())
    }

    fn class_of_resource(&self, resource: &str) -> Option<String> {
        self.look(|kept| {
            let named = |facts: &ClassFacts| facts.extended_resource.as_deref() == Some(resource);
            kept.classes.iter().find(|(_, facts)| named(facts)).map(|(name, _)| name.clone())
        })
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
        self.look(|kept| {
            let (classes, allocated) = kept.claims.get(&(namespace.to_owned(), name.to_owned()))?;
            Some(ClaimFacts { classes: classes.as_ref().clone(), allocated: *allocated })
        })
    }

    fn template(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
        self.look(|kept| {
            let classes = kept.templates.get(&(namespace.to_owned(), name.to_owned()))?;
            Some(ClaimFacts { classes: classes.as_ref().clone(), allocated: false })
        })
    }
}

impl Lookup for Facts {
    fn preferred_leaf(&self, owner: &str) -> Option<String> {
        self.look(|kept| {
            let leaves: BTreeSet<&str> = kept.leaves.values().map(String::as_str).collect();
            preferred_leaf(owner, leaves).map(str::to_owned)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::claim;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn named(name: &str) -> Named {
        ("bank".to_owned(), name.to_owned())
    }

    fn spec(class: &str) -> Value {
        json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}})
    }

    fn claim(name: &str, class: &str) -> Change {
        let claim = json!({
            "metadata": {"name": name, "namespace": "bank", "uid": "11111111-2222-4333-8444-555555555555"},
            "spec": spec(class),
        });
        Change::Claim(named(name), claim::read(&object(claim)).unwrap())
    }

    fn template(name: &str, class: &str) -> Change {
        Change::Template(named(name), Arc::new(claim::spec(&object(spec(class)))))
    }

    #[test]
    fn sets_of_classes_are_kept_once_and_as_long_as_something_uses_them() {
        let facts = Facts::default();
        let sets = || facts.look(|kept| kept.sets.iter().map(|set| set.as_ref().clone()).collect::<Vec<_>>());
        let set = |class: &str| BTreeSet::from([class.to_owned()]);
        for change in [claim("a", "one"), claim("b", "one"), template("t", "one"), claim("c", "two")] {
            facts.learn(&change);
        }
        facts.tidy();
        assert_eq!(sets(), [set("one"), set("two")]);
        // One is asked for by another class now, one is gone; a template still has the first set.
        for change in [claim("a", "two"), Change::ClaimGone(named("b")), Change::ClaimGone(named("c"))] {
            facts.learn(&change);
        }
        facts.tidy();
        assert_eq!(sets(), [set("one"), set("two")]);
        facts.learn(&Change::TemplateGone(named("t")));
        facts.tidy();
        assert_eq!(sets(), [set("two")]);
        assert_eq!(facts.claim("bank", "a").unwrap().classes, set("two"));
        facts.learn(&Change::ClaimGone(named("a")));
        facts.tidy();
        assert!(sets().is_empty());
    }
}
