use super::*;
use crate::engine::simulate;
use crate::metrics::FIGURES;
use crate::mix::bank;

fn figures(jobs: usize, patience: u64, mode: Mode) -> BTreeMap<&'static str, f64> {
    let workload = bank(1, 0.8, jobs);
    let settings = Settings { patience: Duration::from_secs(patience), mode };
    let mut ours = Ours::new(&workload.shape, settings, Config::default()).unwrap();
    let metrics = simulate(&workload, &mut ours).unwrap();
    let told = FIGURES.iter().filter(|figure| !figure.name.starts_with("decide"));
    told.map(|figure| (figure.name, figure.value(&metrics))).collect()
}

#[test]
fn the_planner_packs_and_never_straddles() {
    let pack = figures(400, 0, Mode::Pack);
    assert_eq!(pack.get("straddle"), Some(&0.0));
    assert!(pack["xnode"] < 0.4, "{pack:?}");
    assert_eq!(pack, figures(400, 0, Mode::Pack), "the same seed gives the same figures");
    let single = figures(200, 0, Mode::OnePerNode);
    assert_eq!(single["xnode"], 1.0);
}
