//! Reading READMEs, and comparing them with what was seen.

use super::mask::masked;
use super::*;

fn step(expected: &str) -> Step {
    let expected = expected.lines().map(str::to_owned).collect();
    Step { line: 1, command: "kubectl logs share".into(), expected }
}

#[test]
fn every_command_of_every_block_is_read_with_its_output() {
    let readme = "# Title\n\n```console\n$ a | b\none\n\n  two\n$ c\n```\ntext\n```yaml\nx: y\n```\n\n```console\n$ d\n```\n";
    let steps = Step::all_of(readme).expect("steps");
    let read: Vec<(usize, &str, Vec<&str>)> = steps
        .iter()
        .map(|s| (s.line, s.command.as_str(), s.expected.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(read, [(4, "a | b", vec!["one", "", "  two"]), (8, "c", vec![]), (16, "d", vec![])]);
}

#[test]
fn nothing_that_looks_like_a_command_is_left_out() {
    let malformed = [
        ("# Title\n", "no ```console block"),
        ("```console\nout\n```\n", "line 2: a console block begins with"),
        ("```console\n$ a\n```\n```console\nout\n$ b\n```\n", "line 5: a console block begins with"),
        ("```sh\n$ a\n```\n", "line 2: a command outside"),
        ("```Console\n$ a\n```\n", "its block has another name"),
        ("$ a\n", "it is in no block"),
        ("- item\n  ```bash\n  $ a\n  ```\n", "line 3: a command outside"),
        ("```console\n$ a\n", "does not end"),
    ];
    for (readme, said) in malformed {
        let error = Step::all_of(readme).expect_err(readme);
        assert!(error.contains(said), "{readme}: {error}");
    }
}

#[test]
fn what_the_cluster_makes_up_is_the_same() {
    let same = [
        ("NAME    STATE   AGE", "NAME          STATE   AGE"),
        ("first-npu-7xk2p   chip-0-0", "first-npu-zq9dd   chip-0-0"),
        ("share   allocated,reserved   4s", "share   allocated,reserved   2m10s"),
        ("a   3s   b", "a   12d   b"),
        ("uid 5a0c8b1e-0d0c-4f3a-9a53-0b6f3d1c2e4f is", "uid 00000000-1111-2222-3333-444444444444 is"),
        ("trailing  ", "trailing"),
        ("policy 'p' with binding 'a' denied", "policy 'p' with binding 'a-own-classes' denied"),
    ];
    for (readme, cluster) in same {
        assert_eq!(masked(readme), masked(cluster));
    }
}

#[test]
fn everything_else_is_compared() {
    let different = [
        ("chip-0-0", "chip-0-1"),
        ("total=4294967296 free=0", "total=4294967296 free=512"),
        ("after 4s it ended", "after 5s it ended"),
        ("tenant-one", "tenant-two"),
        ("first-npu-7xk2p", "second-npu-7xk2p"),
        ("first-npu-7xk2p", "first-npu-7xk2"),
        ("  indented", "    indented"),
        ("one two", "one  two"),
        ("one", ""),
    ];
    for (readme, cluster) in different {
        assert_ne!(masked(readme), masked(cluster), "{readme}");
    }
}

#[test]
fn a_difference_shows_both_and_marks_the_lines() {
    let readme = step("devices count=1\ndevice id=0 total=4");
    assert_eq!(readme.compare("devices count=1\ndevice id=0 total=4\n"), Ok(()));
    assert_eq!(step("").compare(""), Ok(()));
    let other = readme.compare("devices count=1\ndevice id=0 total=8\nmore\n").expect_err("a difference");
    assert_eq!(
        other,
        "`kubectl logs share`\nexpected, by the README:\n    devices count=1\n  ! device id=0 total=4\n\
         seen:\n    devices count=1\n  ! device id=0 total=8\n  ! more"
    );
    let nothing = readme.compare("").expect_err("a difference");
    assert!(
        nothing.ends_with("  ! devices count=1\n  ! device id=0 total=4\nseen:\n  ! (nothing)"),
        "{nothing}"
    );
}

#[test]
fn only_what_changes_nothing_is_asked_again() {
    let looks = |command: &str| Step { command: command.into(), ..step("") }.only_looks();
    assert!(looks("kubectl get pods") && looks("kubectl logs one | sort") && looks("kubectl exec one -- ls"));
    assert!(
        !looks("kubectl apply -f x.yaml")
            && !looks("kubectl wait pod/x")
            && !looks("sed p x | kubectl get -f -")
    );
}
