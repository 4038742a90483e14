"""Which environment does a process get, and whose word counts?"""

from __future__ import annotations

import pytest

from controller.model.command import app_values, process_environment


def environment(values: dict[str, str], *, is_build: bool = False) -> dict[str, str]:
    return process_environment(values, working_directory="/release", data_folder="/data", is_build=is_build)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("NODE_ENV", "production"), ("RAILS_ENV", "production"), ("RACK_ENV", "production"), ("MIX_ENV", "prod")],
)
def test_an_app_is_told_that_this_is_production_unless_its_own_values_say_otherwise(name: str, mode: str) -> None:
    assert environment({})[name] == mode
    assert environment(app_values(f"{name}=staging\n"))[name] == "staging"


def test_a_build_gets_the_packages_of_development_and_everything_else_of_production() -> None:
    built = environment({}, is_build=True)

    assert "NODE_ENV" not in built
    assert built["MIX_ENV"] == "prod"
    assert environment({"NODE_ENV": "production"}, is_build=True)["NODE_ENV"] == "production"
