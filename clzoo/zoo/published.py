"""What a model that others publish says of itself: its config alone is fetched, never its weights."""

from __future__ import annotations

from clzoo import cache
from clzoo.config import HUB_PREFIX, LONGEST_CONFIG, TIMM_PREFIX, ModelConfig
from clzoo.files import read_json
from clzoo.zoo.fetch import commit_of, fetch_file
from clzoo.zoo.timm_models import config_of_timm, full_name, is_timm_config, pinned_model


def described(name: str) -> tuple[ModelConfig, str]:
    """The config of "hf-hub:ORG/NAME" or "timm:NAME.TAG", and where its weights are; where this machine has pinned
    the model (`clzoo.zoo.timm_models.pin`), what was pinned, without network.

    Raises:
        ClzooError: no such name, no network, or a config of no format that `clzoo.load` takes.
    """
    if name.startswith(TIMM_PREFIX):
        full, repo = full_name(name.removeprefix(TIMM_PREFIX))
        name = f"{TIMM_PREFIX}{full}"
    else:
        repo = name.removeprefix(HUB_PREFIX)
    if pinned := pinned_model(name, repo, None, None):
        config, model = pinned
        return config, f"pinned on this machine on {model.provenance.pinned_here}"
    path = fetch_file(repo, "config.json", None, hub_cache=cache.hub_cache(None), offline=False)
    raw, where = read_json(path, LONGEST_CONFIG), f"{repo}, config.json"
    config = config_of_timm(raw, name, where) if is_timm_config(raw) else ModelConfig.from_json(raw, where)
    return config, f"on the Hub at {commit_of(path, 'config.json')}, not loaded here yet"
