"""The readers: what a data team would lose if an export were misread, half read or refused without saying why."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.sources import detect
from assets.sources.base import Source, Staged
from assets.sources.demo import DemoSource
from assets.sources.movielens import MovieLensSource
from assets.sources.neutral import NeutralSource
from model.errors import BadInput
from model.simulator import SimulatorConfig

ITEMS = {"item_id": ["a", "b"], "title": ["A", "B"]}
BEHAVIORS = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [10, 20]}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def write(folder: Path, *, items: dict | None = None, behaviors: dict | None = None, ending: str = "parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in (("items", items or ITEMS), ("behaviors", behaviors or BEHAVIORS)):
        if ending == "parquet":
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        else:
            cells = [list(columns), *zip(*columns.values(), strict=True)]
            quoted = [",".join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in cells]
            (folder / f"{name}.csv").write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return folder


def staged(source: Source, connection: duckdb.DuckDBPyConnection) -> tuple[Staged, list[tuple], list[tuple]]:
    report = source.stage(connection)
    items = connection.execute("SELECT * FROM staged_items ORDER BY item_id").fetchall()
    return report, items, connection.execute("SELECT * FROM staged_behaviors ORDER BY file_row").fetchall()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_neutral_layout_with_only_what_is_required(tmp_path: Path, connection, ending: str) -> None:
    source = detect(write(tmp_path / "shop", ending=ending))
    assert isinstance(source, NeutralSource)
    assert (source.name, source.simulated) == ("shop", False)
    report, items, behaviors = staged(source, connection)
    assert report == Staged(positions_given=False, images_missing=0)
    assert items == [("a", "A", None, None, None), ("b", "B", None, None, None)]
    assert behaviors == [("u", "a", "view", None, 10, None, 1), ("u", "b", "view", None, 20, None, 2)]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_ids_with_spaces_unicode_and_quotes_survive(tmp_path: Path, connection, ending: str) -> None:
    odd = ["two words", "naïve 日本 🙂", 'it\'s "quoted", with; comma', "'; DROP TABLE items; --", " edge "]
    folder = tmp_path / "a 'folder' [with] *odd* \"name\" é"
    write(
        folder,
        items={"item_id": odd, "title": odd},
        behaviors={"user_id": odd, "item_id": odd, "timestamp": [1, 2, 3, 4, 5]},
        ending=ending,
    )
    _, items, behaviors = staged(detect(folder), connection)
    assert sorted(row[0] for row in items) == sorted(odd)
    assert [row[0] for row in behaviors] == odd
    assert [row[1] for row in behaviors] == odd


def test_optional_columns_are_read(tmp_path: Path, connection) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    write(
        tmp_path,
        items={
            "item_id": ["a", "b", "c"],
            "title": ["A", None, ""],
            "description": ["first", None, None],
            "categories": [["x", "y"], [], None],
            "image": ["./pictures//a.jpg", "pictures/gone.jpg", None],
        },
        behaviors={
            "user_id": [1, 1],
            "item_id": ["a", "b"],
            "event": ["buy", None],
            "value": [2.5, None],
            "timestamp": [10, 5],
            "position": [0, 1],
        },
    )
    report, items, behaviors = staged(detect(tmp_path), connection)
    assert report == Staged(positions_given=True, images_missing=1)
    assert items == [
        ("a", "A", "first", "x, y", str(tmp_path.resolve() / "pictures" / "a.jpg")),
        ("b", "b", None, None, None),  # shown by its id
        ("c", "c", None, None, None),
    ]
    assert behaviors == [("1", "a", "buy", 2.5, 10, 0, 1), ("1", "b", "view", None, 5, 1, 2)]


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:\\x.png", "..\\x.png", ".."])
def test_images_outside_the_folder_are_refused(tmp_path: Path, connection, image: str) -> None:
    write(tmp_path, items={**ITEMS, "image": [image, None]})
    with pytest.raises(BadInput, match="outside its folder"):
        detect(tmp_path).stage(connection)


def test_times_of_a_time_type_become_seconds(tmp_path: Path, connection) -> None:
    times = pa.array([1_000_000_500, 2_000_000_999], pa.timestamp("ms", tz="UTC"))
    write(tmp_path, behaviors={**BEHAVIORS, "timestamp": times})
    _, _, behaviors = staged(detect(tmp_path), connection)
    assert [row[4] for row in behaviors] == [1_000_000, 2_000_000]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("items", "behaviors", "said"),
    [
        ({"id": ["a"], "title": ["A"]}, None, "lacks the columns item_id; it has id, title"),
        (None, {"user": ["u"], "item_id": ["a"], "when": [1]}, "lacks the columns user_id, timestamp"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, connection, items, behaviors, said: str, ending: str) -> None:
    write(tmp_path, items=items, behaviors=behaviors, ending=ending)
    with pytest.raises(BadInput, match=said):
        detect(tmp_path).stage(connection)


@pytest.mark.parametrize("name", ["items.csv", "behaviors.csv"])
@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_file_is_refused(tmp_path: Path, connection, name: str, rows: int) -> None:
    path = write(tmp_path, ending="csv") / name
    path.write_text("\n".join(path.read_text().splitlines()[:rows]))
    with pytest.raises(BadInput, match=f"{name} (is empty|has a header but no rows)"):
        detect(tmp_path).stage(connection)


@pytest.mark.parametrize("name", ["items.parquet", "behaviors.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_torn_parquet_is_refused(tmp_path: Path, connection, name: str, share: float) -> None:
    path = write(tmp_path) / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInput, match=f"{name} (is empty|cannot be read)"):
        detect(tmp_path).stage(connection)


def test_rows_that_are_no_csv_are_refused(tmp_path: Path, connection) -> None:
    write(tmp_path, ending="csv")
    (tmp_path / "behaviors.csv").write_text('user_id,item_id,timestamp\nu,a,1\n"u,a\nx,y,z,1,2,3\n')
    with pytest.raises(BadInput, match=r"behaviors\.csv"):
        detect(tmp_path).stage(connection)


@pytest.mark.parametrize(("column", "value"), [("timestamp", "yesterday"), ("value", "much"), ("position", "first")])
def test_texts_that_are_not_numbers_are_shown(tmp_path: Path, connection, column: str, value: str) -> None:
    behaviors = {**BEHAVIORS, "value": [1, 2], "position": [0, 1]}
    write(tmp_path, behaviors={**behaviors, column: [behaviors[column][0], value]}, ending="csv")
    with pytest.raises(BadInput, match=f"1 values that are not numbers, the first in row 2: {column} is '{value}'"):
        detect(tmp_path).stage(connection)


def test_positions_are_for_every_row_or_none(tmp_path: Path, connection) -> None:
    write(tmp_path, behaviors={**BEHAVIORS, "position": [0, None]})
    with pytest.raises(BadInput, match="1 rows without a position"):
        detect(tmp_path).stage(connection)


def test_what_is_no_known_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        detect(tmp_path / "nowhere")
    (tmp_path / "file.json").write_text("x")
    with pytest.raises(BadInput, match="is not a folder"):
        detect(tmp_path / "file.json")
    with pytest.raises(BadInput, match=r"holds file\.json, which is no layout known here: items\.parquet"):
        detect(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no files"):
        detect(tmp_path / "empty")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "items.csv").write_text("item_id\n1\n")
    with pytest.raises(BadInput, match=r"holds items\.csv, which"):
        detect(tmp_path / "half")


def test_grouplens_dat_is_latin_1_without_quoting(tmp_path: Path, connection) -> None:
    (tmp_path / "movies.dat").write_bytes(
        "1::Amélie, \"Le Fabuleux\" (2001)::Comedy|Romance\n2::Children's 'X': Y (1999)::(no genres listed)\n".encode(
            "latin-1"
        )
    )
    (tmp_path / "ratings.dat").write_text("7::2::5::978300760\n7::1::3.5::978300760\n8::1::4::978300000\n")
    source = detect(tmp_path)
    assert isinstance(source, MovieLensSource)
    report, items, behaviors = staged(source, connection)
    assert not report.positions_given
    assert items == [
        ("1", 'Amélie, "Le Fabuleux" (2001)', None, "Comedy, Romance", None),
        ("2", "Children's 'X': Y (1999)", None, None, None),
    ]
    assert behaviors == [
        ("7", "2", "rating", 5.0, 978300760, None, 1),
        ("7", "1", "rating", 3.5, 978300760, None, 2),  # a tie keeps the order of the file
        ("8", "1", "rating", 4.0, 978300000, None, 3),
    ]


def test_grouplens_csv_with_quoted_titles(tmp_path: Path, connection) -> None:
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n1,"Street, The ""X"" (1999)",Drama|War\n')
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,964982703\n")
    _, items, behaviors = staged(detect(tmp_path), connection)
    assert items == [("1", 'Street, The "X" (1999)', None, "Drama, War", None)]
    assert behaviors == [("1", "1", "rating", 4.0, 964982703, None, 1)]
    (tmp_path / "ratings.csv").write_text("user,movieId,rating,time\n1,1,4.0,964982703\n")
    connection.execute("DROP TABLE staged_items")
    with pytest.raises(BadInput, match="lacks the columns userId, timestamp"):
        detect(tmp_path).stage(connection)


def test_a_digest_follows_the_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop")
    before = detect(folder).digest()
    assert detect(folder).digest() == before
    write(folder, behaviors={**BEHAVIORS, "timestamp": [10, 21]})
    assert detect(folder).digest() != before


def test_demo_has_real_names_groups_and_pictures(connection) -> None:
    source = DemoSource(SimulatorConfig(users=30, seed=3))
    report, items, behaviors = staged(source, connection)
    assert source.simulated
    assert "simulated" in source.name
    assert report == Staged(positions_given=True, images_missing=0)
    assert 1800 <= len(items) <= 1900
    assert len({row[1] for row in items}) == len(items)
    grin = next(row for row in items if row[0] == "sweat_smile")
    assert grin[1] == "Grinning face with sweat"
    assert grin[3] == "Smileys & Emotion, face-smiling"
    assert Path(grin[4]).read_bytes().startswith(b"\x89PNG")
    assert not any("skin" in row[3] for row in items)
    assert {row[2] for row in behaviors} == {"simulated-view"}
    groups = source.groups()
    assert len({row[3] for row in items}) == 99  # subgroups
    assert len(groups) == len(items)
    assert len(set(groups)) == 35
    assert set(groups[1:] - groups[:-1]) == {0, 1}  # each interest is one run of the taxonomy


def test_demo_is_the_same_every_time_and_names_its_variants() -> None:
    few = SimulatorConfig(users=5)
    assert DemoSource().digest() == DemoSource().digest()
    assert DemoSource(few).digest() != DemoSource().digest()
    assert DemoSource().name == "demo (simulated emoji)"
    assert DemoSource(few).name not in {DemoSource().name, DemoSource(SimulatorConfig(users=6)).name}
