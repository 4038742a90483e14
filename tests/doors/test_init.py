"""`init`: a deploy.toml for the folder that it was run in, and nothing that was there is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.doors.cli import main
from controller.doors.cli_init import list_files
from controller.model.deploy_toml import parse_recipe


def init(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["init", *map(str, words)])
    return result.exit_code, result.output


def test_init_writes_a_valid_deploy_toml_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('hello')\n")

    code, said = init(tmp_path)

    assert (code, "wrote" in said) == (0, True)
    recipe = parse_recipe((tmp_path / "deploy.toml").read_bytes())
    assert recipe.api is not None
    assert "app.py" in recipe.api.command
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_init_overwrites_only_when_forced(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("# mine\n")
    (tmp_path / "index.html").write_text("<p>hello")

    code, said = init(tmp_path)
    assert (code, "--force" in said) == (3, True)
    assert (tmp_path / "deploy.toml").read_text() == "# mine\n"

    assert init(tmp_path, "--force")[0] == 0
    assert "# mine" not in (tmp_path / "deploy.toml").read_text()


def test_init_says_what_it_took_the_folder_for_as_json(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello")

    code, said = init(tmp_path, "--json")

    assert code == 0
    assert json.loads(said)["written"] == str(tmp_path / "deploy.toml")
    code, said = init(tmp_path, "--json")
    assert (code, json.loads(said)["error"]) == (3, "AlreadyThere")


def test_init_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert init(tmp_path / "nowhere")[0] == 2


def test_init_looks_neither_deep_nor_through_links_nor_into_what_is_not_the_projects(tmp_path: Path) -> None:
    for name in ("a.txt", "node_modules/x.js", "one/b.txt", "one/two/c.txt", "one/two/three/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)

    found = list_files(tmp_path)

    assert found == ["a.txt", "one/b.txt", "one/two/c.txt", "one/two/three/"]


def test_init_refuses_a_folder_that_it_does_not_know_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET_KEY=changethis")
    for name in ("frontend/package.json", "backend/requirements.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")

    code, said = init(tmp_path, "--force")

    assert (code, "backend/requirements.txt, frontend/package.json" in said) == (3, True)
    assert not (tmp_path / "deploy.toml").exists()


def test_init_refuses_a_folder_inside_a_repository_where_nobody_would_read_the_file(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "backend").mkdir()
    for folder in (tmp_path, tmp_path / "backend"):
        (folder / "index.html").write_text("<p>hello")

    code, said = init(tmp_path / "backend")

    assert (code, str(tmp_path) in said, "root only" in said) == (3, True, True)
    assert not (tmp_path / "backend" / "deploy.toml").exists()
    assert init(tmp_path)[0] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_init_reads_files_that_were_saved_on_windows(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "Procfile").write_bytes("web: gunicorn shop:app\r\n".encode(encoding))
    (tmp_path / "requirements.txt").write_bytes("gunicorn\r\n".encode(encoding))

    assert init(tmp_path)[0] == 0
    api = parse_recipe((tmp_path / "deploy.toml").read_bytes()).api
    assert api is not None
    assert api.command == (".venv/bin/gunicorn", "shop:app")


def test_init_says_which_lines_of_a_procfile_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: ./serve\nworker: ./work\n")

    code, said = init(tmp_path)

    assert (code, "not run: worker:" in said) == (0, True)
