"""`report.html`: one self-contained file, with all text of prompts escaped."""

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from expo_cli.contracts.results import DRIFT_FIGURES, Results
from expo_cli.core.alarms import MAX_SHIFT, largest_shift
from expo_cli.report.gallery import Gallery
from expo_cli.report.pictures import data_uri
from expo_cli.report.wording import (
    decimals,
    direction,
    fixed,
    images_per_prompt,
    interval,
    kl_decimals,
    optional,
    policy_settings,
    reward_decimals,
    reward_name,
    reward_settings,
    source_name,
    visible,
)

TEMPLATE = "report.html.jinja"


def render_page(
    results: Results, gallery: Gallery, plots: Mapping[str, Mapping[str, bytes]]
) -> str:
    """The whole page. `plots` are those of `report.plots.draw_plots`."""
    environment = Environment(
        loader=PackageLoader("expo_cli.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "fixed": fixed,
        "interval": interval,
        "images_per_prompt": images_per_prompt,
        "policy_settings": policy_settings,
        "reward_settings": reward_settings,
        "source_name": source_name,
        "optional": optional,
    }
    return environment.get_template(TEMPLATE).render(
        results=results,
        gallery=gallery,
        plots={name: data_uri(files["svg"], "image/svg+xml") for name, files in plots.items()},
        last=results.policies[-1],
        base=results.policy(results.baseline),
        places={reward: reward_decimals(results, reward) for reward in results.rewards},
        drift_places={
            name: decimals(policy.drift[name].mean for policy in results.policies)
            for name in DRIFT_FIGURES
        },
        kl_places=kl_decimals(results),
        names={reward: reward_name(results, reward) for reward in results.rewards},
        categories=list(results.policies[0].categories),
        drift_figures=DRIFT_FIGURES,
        max_shift=MAX_SHIFT,
        largest_shift=largest_shift,
        direction=direction,
    )
