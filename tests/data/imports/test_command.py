"""`llmsrec import` as a person types it."""

import gzip
import json
import shlex
import shutil
from pathlib import Path

import pytest

from llmsrec import cli
from llmsrec.data.imports import command, formats
from tests.params_file import set_params

ROOT = Path(__file__).parents[3]
ORDERS = 'Kunde;Artikel;Bestellt am;Bezeichnung\n7;A/1;24.12.2025 18:30;"Schuh; rot"\n;B;24.12.2025 19:00;Hut\n'
COLUMNS = ["--user", "Kunde", "--item", "Artikel", "--time", "Bestellt am"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.csv").write_text(ORDERS)
    return tmp_path


def test_each_error_leads_to_the_next_command_and_the_last_one_says_what_was_taken(folder, capsys):
    to = ["--to", "in", "--category", "Shop"]
    steps = [
        (["import", "orders.csv", *to], "Perhaps: llmsrec import orders.csv --user Kunde --item Artikel --time 'Best"),
        (["import", "orders.csv", *COLUMNS, *to], "orders.csv, line 3: the user (column Kunde) is empty; fill in user"),
        (["import", "orders.csv", *COLUMNS, *to, "--skip-bad"], "is written: --time-format '%d.%m.%Y %H:%M'"),
    ]  # fmt: skip
    for arguments, message in steps:
        assert cli.main(arguments) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert message in captured.err
    done = ["import", "orders.csv", *COLUMNS, *to, "--skip-bad", "--time-format", "%d.%m.%Y %H:%M"]
    assert cli.main([*done, "--time-zone", "Europe/Berlin"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        'orders.csv (columns as stated; fields between semicolons, quoted by ", UTF-8): user = Kunde, item = Artikel, '
        "time = Bestellt am",
        "times: --time-format '%d.%m.%Y %H:%M', times without a zone in Europe/Berlin; from 2025-12-24 to 2025-12-24",
        "rows: 2 read, 1 written, 1 left out",
        "  left out: orders.csv, line 3: the user (column Kunde) is empty",
        "items: 1 in the events, 0 of them with a title",
        "WARNING: no item has a title, and the language model knows items by their titles: name the column with "
        "--title, or the catalogue with --items FILE --title COLUMN",
        "written: in/Shop.jsonl.gz, meta_Shop.jsonl.gz, Shop.manifest.json",
        "next: dvc exp run -S data.source=files -S data.dir=in -S data.category=Shop "
        "-S registry.model=<a name for its versions>",
    ]
    event = json.loads(gzip.decompress((folder / "in/Shop.jsonl.gz").read_bytes()))
    assert event == {"user_id": "7", "parent_asin": "A/1", "timestamp": 1_766_597_400_000}


@pytest.mark.parametrize(
    ("category", "following"),
    [
        ("Shop", "dvc repro"),
        ("Other", "dvc exp run -S data.source=files -S data.dir=in -S data.category=Other -S registry"),
    ],
)
def test_a_shop_that_imports_each_night_is_not_told_to_override_what_its_params_say(
    folder, capsys, category, following
):
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder / "params.yaml", {"data.source": "files", "data.dir": "in", "data.category": "Shop"})
    stated = [*COLUMNS, "--skip-bad", "--time-format", "%d.%m.%Y %H:%M"]
    assert cli.main(["import", "orders.csv", *stated, "--to", "in", "--category", category]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: {following}")


def test_a_file_alone_leads_to_the_whole_command(folder, capsys):
    orders = (folder / "orders.csv").rename(folder / "my orders-2025.csv").name
    whole = f"llmsrec import '{orders}' --user Kunde --item Artikel --time 'Bestellt am' --title Bezeichnung"
    named = "--to data/incoming --category MyOrders2025"
    for stated in ([], [*COLUMNS, "--title", "Bezeichnung"]):
        assert cli.main(["import", orders, *stated]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"Perhaps: {whole} {named}"), line
    assert "state with --category" in line and not (folder / "data").exists()
    arguments = shlex.split(f"{whole} {named}")[1:]
    assert cli.main([*arguments, "--skip-bad", "--time-format", "%d.%m.%Y %H:%M"]) == 0
    assert (folder / "data/incoming/MyOrders2025.jsonl.gz").exists()


def test_a_suggested_command_keeps_what_was_given_and_works(folder, capsys):
    (folder / "b.csv").write_bytes("Kunde|Ware|Datum\n7|'A|1'|24.12.2025 18:30\nMüller|B|heute\n".encode("cp1252"))
    (folder / "waren.csv").write_bytes("Artikel|Bezeichnung|Marke\n'A|1'|Schuh für zwei|X\n".encode("cp1252"))
    written = ["--time-format", "%d.%m.%Y %H:%M", "--time-zone", "Europe/Berlin", "--delimiter", "|", "--quote", "'"]
    given = ["--items", "waren.csv", "--store", "Marke", *written, "--encoding", "cp1252", "--skip-bad"]
    for stated in (["--item", "Ware"], ["--user", "Kunde", "--item", "Ware", "--time", "Datum"]):
        target = [] if len(stated) > 2 else ["--to", "{in}", "--category", "Shop"]
        assert cli.main(["import", "b.csv", *stated, *given, *target]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        suggested = shlex.split(line.partition("Perhaps: llmsrec ")[2])
        assert {*stated, *given, *target} <= set(suggested), line
        if target:
            assert {"--title", "Bezeichnung", "--item-id", "Artikel", "Kunde", "Datum"} <= set(suggested), line
            assert cli.main(suggested) == 0
            assert "1 written, 1 left out\n" in (out := capsys.readouterr().out) and "1 of them with a title" in out


@pytest.mark.parametrize(
    "given",
    [
        ["--delimiter", "tab", "--quote", "none", "--time-unit", "s"],
        ["--rating", "", "--title", "Name {0}"],
        ["--items", "absent.csv"],
    ],
)
def test_a_suggestion_spells_options_as_they_were_given(given, folder, capsys):
    (folder / "a.tsv").write_text("user\titem\tName {0}\ttimes\n1\t2\t3\t1391040000\n")
    assert cli.main(["import", "a.tsv", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    if "absent.csv" in given:
        assert "absent.csv" in line and "Perhaps" not in line
    else:
        suggested = shlex.split(line.partition("Perhaps: llmsrec ")[2])
        places = [suggested.index(flag) for flag in given[::2]]
        assert [suggested[place + 1] for place in places] == given[1::2], line


def test_a_known_format_needs_a_name_alone(folder, capsys):
    (folder / "Ä.csv").write_text("user_id,parent_asin,rating,timestamp\na,b,5,1700000000000\n")
    assert cli.main(["import", "Ä.csv"]) == 1
    assert capsys.readouterr().err.endswith("Perhaps: llmsrec import 'Ä.csv' --to data/incoming --category Shop\n")


def test_words_for_characters_that_a_shell_eats(folder, capsys):
    (folder / "a.tsv").write_text('u\ti\tt\nx\t27" a\t1391040000\n')
    arguments = ["a.tsv", "--user", "u", "--item", "i", "--time", "t", "--delimiter", "tab", "--quote", "none"]
    assert cli.main(["import", *arguments, "--to", "in", "--category", "A"]) == 0
    assert "fields between tabs, no quotes" in capsys.readouterr().out


def test_the_help_names_each_known_format():
    assert set(command.FORMATS) == set(formats.FORMATS)
    assert all(name in command.NOTES for name in formats.FORMATS)
