"""Where recipes are: files, and the packaged ones by name."""

from __future__ import annotations

from pathlib import Path


def recipe_folder() -> Path:
    """The folder of the packaged recipes: beside this package when installed, at the top of the repository when
    editable."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "recipes", package.parents[1] / "recipes")
    return next((place for place in places if place.is_dir()), places[0])


def recipe_names() -> list[str]:
    """Names of the packaged recipes, such as `tiny/pgm`."""
    folder = recipe_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def file_of(source: str | Path) -> Path | None:
    """The file of a recipe, by path or by name, if there is one."""
    named = recipe_folder() / f"{str(source).removesuffix('.yaml')}.yaml"
    return next((path for path in (Path(source).expanduser(), named) if path.is_file()), None)


def find(source: str | Path) -> Path:
    """The file of a recipe, by path or by name. Raises ValueError that lists the names if there is none, or knows a run folder."""
    if (found := file_of(source)) is not None:
        return found
    if (Path(source).expanduser() / "config.yaml").is_file():
        raise ValueError(f"{source} is a run folder, not a recipe; add --resume to go on with it (in Python: resume=True)")
    raise ValueError(f"there is no recipe {source}; give the path of a YAML file or one of {', '.join(recipe_names())}")
