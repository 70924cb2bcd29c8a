//! Which pods belong together, and when a batch is complete: all of that is said by the pods themselves and by their
//! controllers.

use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::controller_config::WorkloadKind;
use vnpu_placement::batch::{BatchKey, Mode};
use vnpu_placement::demand::ClaimSpec;
use vnpu_placement::moment::Moment;

use super::settings::Settings;
use crate::observe::owner::OwnerSeen;
use crate::observe::pod::PodSeen;

/// What names a pod's batch and breaks its ties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The batch.
    pub key: BatchKey,
    /// The UID that its ties are broken by.
    pub owner: String,
    /// For people: `Job bank/train`.
    pub title: String,
    /// The kind of the controller; none for a pod without.
    pub kind: Option<WorkloadKind>,
}

/// The batch of a PodGroup's pods, by its namespace and name.
pub fn pod_group_key((namespace, name): &(String, String)) -> BatchKey {
    BatchKey(Arc::from(format!("PodGroup/{namespace}/{name}")))
}

/// Which batch a pod belongs to: the label before the PodGroup before the controller before the pod alone.
pub fn identity(pod: &PodSeen) -> Identity {
    let controller = pod.owner.as_ref().map(|o| o.kind.clone());
    let named = |what: &str, name: &str, kind: Option<WorkloadKind>| Identity {
        key: BatchKey(Arc::from(format!("{what}/{}/{name}", pod.namespace))),
        owner: format!("{what}/{}/{name}", pod.namespace),
        title: format!("{what} {}/{name}", pod.namespace),
        kind,
    };
    if let Some(batch) = &pod.batch {
        return named("batch", batch, controller);
    }
    if let Some(group) = &pod.pod_group {
        let kind = WorkloadKind { kind: "PodGroup".to_owned(), group: "scheduling.k8s.io".to_owned() };
        return named("PodGroup", group, Some(kind));
    }
    let (word, name, uid) = match &pod.owner {
        Some(owner) => (owner.kind.kind.as_str(), owner.name.as_str(), owner.uid.as_str()),
        None => ("Pod", pod.name.as_str(), pod.uid.as_str()),
    };
    Identity {
        key: BatchKey(Arc::from(uid)),
        owner: uid.to_owned(),
        title: format!("{word} {}/{name}", pod.namespace),
        kind: controller,
    }
}

/// Whether pods of this controller work together, so that some of them alone are of no use. Of the Jobs of Kubernetes
/// only the indexed ones are meant.
pub fn is_gang(kind: Option<&WorkloadKind>, owner: Option<OwnerSeen>, settings: &Settings) -> bool {
    let Some(kind) = kind.filter(|kind| settings.gang_kinds.contains(kind)) else { return false };
    let job = kind.kind == "Job" && kind.group == "batch";
    !job || owner.is_some_and(|o| o.indexed)
}

/// The mode of a batch that does not say: pods that work together go to a node each where only Ascend modules can serve
/// them, since collectives between several pods on one such node are not supported by the vendor; all else is packed.
pub fn default_mode<'a>(
    gang: bool,
    mut claims: impl Iterator<Item = &'a ClaimSpec>,
    settings: &Settings,
) -> Mode {
    let modules_only = |spec: &ClaimSpec| {
        spec.requests.iter().flat_map(|r| &r.alternatives).all(|ask| {
            let single = ask.selectors.iter().any(|s| {
                let text: String = s.chars().filter(|c| !c.is_whitespace()).collect();
                text.contains("dies==1")
            });
            settings.module_classes.contains(&ask.class) && !single
        })
    };
    if gang && claims.all(modules_only) { settings.gang_mode } else { settings.other_mode }
}

/// How complete a batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// It can be planned.
    Complete,
    /// More pods are to come; ask again at this time, when it may be planned all the same.
    Until(Moment, String),
    /// More pods must come.
    Awaited(String),
}

/// What is known of a batch's members when completeness is asked.
#[derive(Debug, Clone, Copy)]
pub struct Gathered {
    /// Pods that wait for us.
    pub waiting: u32,
    /// Pods that have a place already.
    pub placed: u32,
    /// When the last one came.
    pub newest: Moment,
    /// How many there are to be, where somebody says.
    pub size: Option<u32>,
    /// There may be more of them than that.
    pub at_least: bool,
    /// Whether they work together.
    pub gang: bool,
    /// Whether their controller is of a kind that says how many there are to be, and was not seen yet.
    pub unseen: bool,
}

/// Whether controllers of this kind are watched, so that one that is there is seen soon.
pub fn is_watched(kind: &WorkloadKind) -> bool {
    let watched = [("batch", "Job"), ("apps", "ReplicaSet"), ("apps", "StatefulSet")];
    watched.contains(&(kind.group.as_str(), kind.kind.as_str()))
}

/// Whether a batch is complete at `now`.
pub fn completeness(gathered: &Gathered, now: Moment, settings: &Settings) -> Completeness {
    let Gathered { waiting, placed, newest, size, at_least, gang, unseen } = *gathered;
    let idle = now.since(newest);
    let after = |span: Duration, why: String| {
        if idle >= span { Completeness::Complete } else { Completeness::Until(newest.after(span), why) }
    };
    let Some(size) = size else {
        // The watch on controllers may be behind the one on pods.
        let span = if unseen { settings.unseen } else { settings.quiet };
        return after(span, format!("{waiting} pods are here, more may come"));
    };
    let here = waiting.saturating_add(placed);
    if here >= size && at_least {
        return after(settings.quiet, format!("{here} pods are here, at least {size} are to come"));
    }
    if here >= size {
        return Completeness::Complete;
    }
    let why = format!("{here} of {size} pods are here");
    // One of several that work together, made anew, does not wait for those that are being made as well.
    if gang && placed == 0 { Completeness::Awaited(why) } else { after(settings.stragglers, why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn gathered(waiting: u32, placed: u32, size: Option<u32>, gang: bool) -> Gathered {
        Gathered { waiting, placed, newest: at(100), size, at_least: false, gang, unseen: false }
    }

    #[test]
    fn a_batch_of_known_size_is_complete_when_all_are_there() {
        let settings = Settings::default();
        assert_eq!(completeness(&gathered(8, 0, Some(8), true), at(100), &settings), Completeness::Complete);
        assert_eq!(completeness(&gathered(3, 5, Some(8), true), at(100), &settings), Completeness::Complete);
        let awaited = Completeness::Awaited("7 of 8 pods are here".to_owned());
        assert_eq!(completeness(&gathered(7, 0, Some(8), true), at(1000), &settings), awaited);
    }

    #[test]
    fn a_controller_that_the_watch_has_not_brought_yet_is_waited_for() {
        let settings = Settings::default();
        let gathered = Gathered { unseen: true, ..gathered(3, 0, None, false) };
        let until = |millis| {
            Completeness::Until(
                Moment(Duration::from_millis(millis)),
                "3 pods are here, more may come".to_owned(),
            )
        };
        assert_eq!(completeness(&gathered, at(101), &settings), until(102_000));
        assert_eq!(completeness(&gathered, at(102), &settings), Completeness::Complete);
        let known = Gathered { unseen: false, ..gathered };
        assert_eq!(completeness(&known, at(100), &settings), until(100_200));
        let kind = |group: &str, kind: &str| WorkloadKind { kind: kind.to_owned(), group: group.to_owned() };
        assert!(is_watched(&kind("batch", "Job")) && !is_watched(&kind("example.com", "Job")));
    }

    #[test]
    fn stragglers_of_independent_pods_are_not_awaited_for_ever() {
        let settings = Settings::default();
        let early = completeness(&gathered(7, 0, Some(8), false), at(101), &settings);
        assert_eq!(early, Completeness::Until(at(130), "7 of 8 pods are here".to_owned()));
        assert_eq!(completeness(&gathered(7, 0, Some(8), false), at(130), &settings), Completeness::Complete);
    }

    #[test]
    fn a_minimum_is_no_size() {
        let settings = Settings::default();
        let at_least = |waiting| Gathered { at_least: true, ..gathered(waiting, 0, Some(4), true) };
        let awaited = Completeness::Awaited("3 of 4 pods are here".to_owned());
        assert_eq!(completeness(&at_least(3), at(1000), &settings), awaited);
        assert!(matches!(completeness(&at_least(4), at(100), &settings), Completeness::Until(..)));
        let later = Moment(Duration::from_millis(100_200));
        assert_eq!(completeness(&at_least(5), later, &settings), Completeness::Complete);
    }

    #[test]
    fn a_batch_of_unknown_size_is_complete_when_nobody_comes_any_more() {
        let settings = Settings::default();
        let now = Moment(Duration::from_millis(100_199));
        assert!(matches!(
            completeness(&gathered(7, 0, None, false), now, &settings),
            Completeness::Until(..)
        ));
        let now = Moment(Duration::from_millis(100_200));
        assert_eq!(completeness(&gathered(7, 0, None, false), now, &settings), Completeness::Complete);
    }
}
