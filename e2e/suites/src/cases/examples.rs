//! Every directory of `examples/` is applied as a user would, and its `expect.yaml` is asserted; the format is
//! described in `examples/README.md`.

use anyhow::{Result, ensure};
use vnpu_e2e_cases::Example;

use crate::case::Case;
use crate::context::Context;
use crate::example;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "examples/whole_chip",
        about: "examples/whole-chip does what its expect.yaml says",
        run: |c| apply(c, "whole-chip"),
    },
    Case {
        name: "examples/share",
        about: "examples/share does what its expect.yaml says",
        run: |c| apply(c, "share"),
    },
    Case {
        name: "examples/module",
        about: "examples/module does what its expect.yaml says",
        run: |c| apply(c, "module"),
    },
    Case {
        name: "examples/four_chips_as_two_modules",
        about: "examples/four-chips-as-two-modules does what its expect.yaml says",
        run: |c| apply(c, "four-chips-as-two-modules"),
    },
    Case {
        name: "examples/pair",
        about: "examples/pair does what its expect.yaml says",
        run: |c| apply(c, "pair"),
    },
    Case {
        name: "examples/two_pods_one_chip",
        about: "examples/two-pods-one-chip does what its expect.yaml says",
        run: |c| apply(c, "two-pods-one-chip"),
    },
    Case {
        name: "examples/shared_claim",
        about: "examples/shared-claim does what its expect.yaml says",
        run: |c| apply(c, "shared-claim"),
    },
    Case {
        name: "examples/two_claims_one_container",
        about: "examples/two-claims-one-container does what its expect.yaml says",
        run: |c| apply(c, "two-claims-one-container"),
    },
    Case {
        name: "examples/share_several_containers",
        about: "examples/share-several-containers does what its expect.yaml says",
        run: |c| apply(c, "share-several-containers"),
    },
    Case {
        name: "examples/cel_selection",
        about: "examples/cel-selection does what its expect.yaml says",
        run: |c| apply(c, "cel-selection"),
    },
    Case {
        name: "examples/first_available",
        about: "examples/first-available does what its expect.yaml says",
        run: |c| apply(c, "first-available"),
    },
    Case {
        name: "examples/extended_resource",
        about: "examples/extended-resource does what its expect.yaml says",
        run: |c| apply(c, "extended-resource"),
    },
    Case {
        name: "examples/all_have_a_case",
        about: "no directory of examples/ is without a case above",
        run: all_have_a_case,
    },
];

fn all_have_a_case(context: &mut Context) -> Result<()> {
    for example in Example::load(&context.artefacts.repository.join("examples"))? {
        let name = format!("examples/{}", example.name.replace('-', "_"));
        ensure!(CASES.iter().any(|c| c.name == name), "there is no case {name}");
    }
    Ok(())
}

fn apply(context: &mut Context, name: &str) -> Result<()> {
    context.machine()?;
    example::run(context, &example::find(&context.artefacts.repository, name)?)
}
