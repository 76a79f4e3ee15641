"""Amazon sequences: what would be lost if a line, an order or an attribute were misread, or a bad file let through."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from assets.sources import Source, Staged, detect
from assets.sources.amazon import AmazonSource
from assets.stores.warehouse import Warehouse
from model.encoders import item_text
from model.errors import BadInput, Refused

LINES = "u1 a b a\n7 b\n"
ATTRIBUTES = {"a": [3, 1], "b": [17], "cold": []}
ITEMS = [
    ("a", "attribute 3, attribute 1", None, "attribute 3, attribute 1", None),
    ("b", "attribute 17", None, "attribute 17", None),
    ("cold", "no attributes", None, None, None),
]
BEHAVIORS = [
    ("u1", "a", "review", None, 0, 0, 1),
    ("u1", "b", "review", None, 1, 1, 2),
    ("u1", "a", "review", None, 2, 2, 3),
    ("7", "b", "review", None, 0, 0, 4),
]
SEVERAL = ("Beauty", "Toys_and_Games")


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    # as the warehouse opens it: what the reader needs must be part of the wheel
    with duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    ) as opened:
        yield opened


def write(folder: Path, *, lines: str | bytes = LINES, attributes: object = ATTRIBUTES, name: str = "Beauty") -> Path:
    """The text file of one catalogue; `attributes` as text or bytes goes in as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = attributes if isinstance(attributes, str | bytes) else json.dumps(attributes)
    for path, content in ((folder / f"{name}.txt", lines), (folder / f"{name}_item2attributes.json", listed)):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / f"{name}.txt"


def staged(source: Source, connection: duckdb.DuckDBPyConnection) -> tuple[list[tuple], list[tuple]]:
    assert source.stage(connection) == Staged(positions_given=True, images_missing=0)
    items = connection.execute("SELECT * FROM staged_items ORDER BY item_id").fetchall()
    return items, connection.execute("SELECT * FROM staged_behaviors ORDER BY file_row").fetchall()


def histories(warehouse: Warehouse) -> dict[str, list[str]]:
    found, users, _ = warehouse.histories()
    ids = list(warehouse.items_frame()["item_id"])
    return {
        str(user): [ids[item] for item in found.items[start:end]]
        for user, start, end in zip(users, found.offsets[:-1], found.offsets[1:], strict=True)
    }


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_known_catalogue_row_by_row(tmp_path: Path, connection, named: str) -> None:
    text = write(tmp_path)
    (tmp_path / "README.txt").write_text("a text that is no catalogue")
    source = detect(text if named == "file" else tmp_path)
    assert isinstance(source, AmazonSource)
    assert (source.name, source.simulated, source.location) == ("amazon-beauty", False, str(text.resolve()))
    assert source.command == f"miss ingest {text.resolve()}"
    assert staged(source, connection) == (ITEMS, BEHAVIORS)
    kinds = connection.execute("DESCRIBE staged_behaviors").fetchall()
    assert [row[1] for row in kinds] == ["VARCHAR", "VARCHAR", "VARCHAR", "DOUBLE", "BIGINT", "INTEGER", "BIGINT"]


@pytest.mark.parametrize(
    "lines",
    [
        "u1 a b a\r\n7 b\r\n",
        "u1 a b a\r7 b",
        "u1 a b a\n7 b\r\n",
        "\ufeffu1 a b a\n7 b",
        "\n  u1\ta  b a \n\n \t\n7 b\n\n",
    ],
)
def test_line_ends_and_white_space_say_nothing(tmp_path: Path, connection, lines: str) -> None:
    assert staged(detect(write(tmp_path, lines=lines.encode())), connection) == (ITEMS, BEHAVIORS)


@pytest.mark.parametrize(
    "listed", ['\ufeff{"a": [3, 1], "b": [17], "cold": []}', '{"a":[3,1],\n "b":\n[ 17\n], "cold":[ ]}']
)
def test_json_may_be_laid_out_in_any_way(tmp_path: Path, connection, listed: str) -> None:
    assert staged(detect(write(tmp_path, attributes=listed)), connection) == (ITEMS, BEHAVIORS)


def test_odd_names_and_ids_survive(tmp_path: Path, connection) -> None:
    odd = ["it's\"quoted,", "naïve日本🙂", "#1", "a\u00a0b", "';DROP"]
    folder = tmp_path / "a 'folder' [with] *odd* \"name\" é"
    write(folder, lines="other b", name="ab")  # what a pattern would match as well
    text = write(folder, lines=f"{odd[1]} {' '.join(odd)}\n", attributes={each: [1] for each in odd}, name="a*")
    source = detect(text)
    items, behaviors = staged(source, connection)
    assert sorted(row[0] for row in items) == sorted(odd)
    assert [row[:2] for row in behaviors] == [(odd[1], each) for each in odd]


def test_a_line_of_any_length_keeps_its_order(tmp_path: Path, connection) -> None:
    places = [(place * 7919) % 1000 for place in range(100_000)]
    text = write(tmp_path, lines="u " + " ".join(map(str, places)), attributes={str(item): [] for item in range(1000)})
    _, behaviors = staged(detect(text), connection)
    assert [int(row[1]) for row in behaviors] == places
    assert [row[5] for row in behaviors] == list(range(100_000))


def test_the_encoder_reads_attributes_and_never_the_number_of_an_item(tmp_path: Path, connection) -> None:
    """Items are numbered as users first meet them: the number of an item tells who buys it next."""
    text = write(tmp_path, lines="u 901 902\n", attributes={"901": [3, 1], "902": [3, 1]})
    items, _ = staged(detect(text), connection)
    texts = [item_text(*row[1:4]) for row in items]
    assert texts[0] == texts[1] == "attribute 3, attribute 1. attribute 3, attribute 1"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", r"Beauty\.txt is empty"),
        (" \n\n", r"Beauty\.txt holds nothing but empty lines"),
        ("u1 a\n\n7\n8\n", r"Beauty\.txt has 2 lines without items, the first line 3 with only '7'"),
        ("u1 a\n7 b\nu1 b\n", r"Beauty\.txt has 1 users on more than one line, such as 'u1' on lines 1 and 3"),
        ("u1 a x\n7 y x\n", r"2 items that Beauty_item2attributes\.json does not list, such as 'x' of user 'u1'"),
        (b"u1 a\n7 \xff\n", r"Beauty\.txt cannot be read \(.*UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, connection, lines: str | bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as raised:
        detect(write(tmp_path, lines=lines)).stage(connection)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("", "is empty"),
        ("{}", "holds nothing but"),
        ("null", "holds nothing but"),
        ('{"a": [1, 2], "b": [', r"cannot be read \(.*Malformed JSON at byte 20"),
        ('{"a": [1]}\n{"b": [1]}', r"cannot be read \(.*Malformed JSON at byte 11"),
        ("[1, 2]", r"cannot be read \(.*Expected OBJECT"),
        (b'{"a": [1], "\xff": []}', r"cannot be read \(.*UTF-8"),
        ('{"a": [1], "b": 7}', r"1 items whose attributes are no list of whole numbers, such as item 'b' with 7"),
        ('{"a": null, "b": null}', "2 items whose attributes .* such as item 'a' with null"),
        ('{"a": [1], "b": [1, "brand, x"]}', r"item 'b' with \[1,\"brand, x\"\]"),
        ('{"a": [1], "b": [1.5]}', r"item 'b' with \[1\.5\]"),
        ('{"a": [1], "b": [[2]]}', r"item 'b' with \[\[2\]\]"),
        ('{"a": [1], "b": [2], "a": [3]}', "lists 1 items more than once, such as 'a'"),
    ],
)
def test_bad_attributes_are_named(tmp_path: Path, connection, listed: str | bytes, said: str) -> None:
    with pytest.raises(BadInput, match=rf"Beauty_item2attributes\.json.*{said}") as raised:
        detect(write(tmp_path, attributes=listed)).stage(connection)
    assert "\n" not in str(raised.value)


def test_what_is_named_must_be_one_catalogue(tmp_path: Path) -> None:
    for name in SEVERAL:
        text = write(tmp_path, name=name)
    with pytest.raises(
        BadInput, match=r"holds Beauty\.txt, Toys_and_Games\.txt; name one of them, as in `miss ingest .*y\.txt`"
    ):
        detect(tmp_path)
    assert detect(text).name == "amazon-toys-and-games"
    (tmp_path / "Beauty_item2attributes.json").unlink()
    assert detect(tmp_path).name == "amazon-toys-and-games"  # half a catalogue is none
    with pytest.raises(BadInput, match=r"Beauty\.txt has no Beauty_item2attributes\.json beside it"):
        detect(tmp_path / "Beauty.txt")
    with pytest.raises(BadInput, match="is not a folder"):
        detect(tmp_path / "Toys_and_Games_item2attributes.json")
    with pytest.raises(BadInput, match="does not exist"):
        detect(tmp_path / "Sports.txt")


def test_a_digest_follows_the_bytes_of_both_files(tmp_path: Path) -> None:
    before = detect(write(tmp_path)).digest()
    assert detect(write(tmp_path)).digest() == before
    assert detect(write(tmp_path, lines=LINES + "8 a\n")).digest() != before
    assert detect(write(tmp_path, attributes={**ATTRIBUTES, "cold": [1]})).digest() != before


def test_the_warehouse_takes_it_grown_and_never_torn(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "home" / "warehouse.duckdb")
    report = warehouse.ingest(detect(write(tmp_path)))
    assert (report.catalogue, report.items_new, report.behaviors_new) == ("amazon-beauty", 3, 4)
    assert report.behaviors_repeated == 0
    assert histories(warehouse) == {"u1": ["a", "b", "a"], "7": ["b"]}
    assert warehouse.ingest(detect(tmp_path)).unchanged
    held = warehouse.digests()
    for broken in (LINES + "8\n", LINES + "8 unknown\n", LINES + "7 a\n"):
        with pytest.raises(BadInput):
            warehouse.ingest(detect(write(tmp_path, lines=broken)))
        assert warehouse.digests() == held
    report = warehouse.ingest(detect(write(tmp_path, lines="7 b a\nu1 a b a\n8 cold\n")))
    assert (report.behaviors_new, report.behaviors_known) == (2, 4)
    assert histories(warehouse) == {"u1": ["a", "b", "a"], "7": ["b", "a"], "8": ["cold"]}
    with pytest.raises(Refused, match=r"MISS_HOME=\.miss-other miss ingest .*Toys_and_Games\.txt"):
        warehouse.ingest(detect(write(tmp_path, name="Toys_and_Games")))


def test_the_command_takes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from orchestration.commands import build

    write(tmp_path)
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    build.ingest(Path("Beauty.txt"), as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["catalogue"], report["source"]) == ("amazon-beauty", str(tmp_path.resolve() / "Beauty.txt"))


@pytest.mark.real
def test_beauty_is_ingested_whole(tmp_path: Path, shared_data: Path) -> None:
    text = shared_data / "amazon" / "Beauty.txt"
    if not text.exists():
        pytest.skip(f"the evaluation data amazon is not beside the project: {text}")
    with pytest.raises(BadInput, match=r"Beauty\.txt, Sports_and_Outdoors\.txt, Toys_and_Games\.txt"):
        detect(text.parent)
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.ingest(detect(text))
    assert warehouse.counts() == {"items": 12_101, "users": 22_363, "behaviors": 198_502}
    with text.open(encoding="utf-8") as file:  # read again in the plainest way
        plain = {words[0]: words[1:] for words in map(str.split, file)}
    assert histories(warehouse) == plain
    listed = json.loads(text.with_name("Beauty_item2attributes.json").read_text(encoding="utf-8"))
    items = warehouse.items_frame().set_index("item_id")["categories"]
    assert {i: [int(w.removeprefix("attribute ")) for w in c.split(", ")] for i, c in items.items()} == listed
