"""`lensbench lens`: one prompt in the terminal, or models over a prompt set."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.cli.options import (
    FINAL,
    AllowField,
    Device,
    Dtype,
    LensName,
    Template,
    TemplateName,
    TrustRemoteCode,
    load,
)

if TYPE_CHECKING:
    from lensbench.lens.result import LensResult
    from lensbench.models.model import LensModel


def lens(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar='MODEL... ["PROMPT"]',
            help="One or more models (NAME, or NAME@BITS+ADAPTER), then the prompt; with --prompts "
            "only models.",
        ),
    ],
    answer: Annotated[
        str | None,
        typer.Option(help="The word to follow. Default: what the model itself says next."),
    ] = None,
    lens_name: Annotated[
        LensName, typer.Option("--lens", help="next and raw are for sensitivity only.")
    ] = FINAL,
    top_k: Annotated[int, typer.Option(min=1, max=50, help="Top tokens per layer.")] = 5,
    mid: Annotated[bool, typer.Option("--mid", help="Also after attention in each block.")] = False,
    position: Annotated[int, typer.Option(help="Which position; -1 is the last.")] = -1,
    template: Template = TemplateName.plain,
    json: Annotated[bool, typer.Option("--json", help="Rows as JSON on standard output.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive layer x position heat map here.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="A prompt set: 'facts', a .csv or a .jsonl. Makes a run folder."),
    ] = None,
    relation: Annotated[
        list[str] | None, typer.Option(help="With --prompts: only this relation; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --prompts: base prompts to ask. Default: all.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder made by `lensbench cache`, in place of prompts and passes."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="With --prompts or --cache: run folder. Default: runs/<its name>.",
        ),
    ] = None,
    keep_residuals: Annotated[
        bool,
        typer.Option(
            "--keep-residuals",
            help="With --prompts: keep the residual vectors at the last positions, for `diff`.",
        ),
    ] = False,
    dtype: Dtype = None,
    device: Device = None,
    allow_field: AllowField = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what a model would say if it stopped at each layer.

    Examples:

        lensbench lens smollm2-135m "The capital of Germany is"

        lensbench lens smollm2-135m "The capital of Germany is" --answer Berlin --html berlin.html

        lensbench lens smollm2-135m gemma3-270m --prompts facts --limit 60

        lensbench lens smollm2-135m smollm2-135m@8 --prompts facts --keep-residuals

        lensbench lens smollm2-135m --cache runs/cache
    """
    alone: dict[str, Any] = {"--answer": answer, "--json": json, "--html": html}
    alone |= {"--allow-field": allow_field, "--trust-remote-code": trust_remote_code}
    together: dict[str, Any] = {"--relation": relation, "--limit": limit}
    together["--keep-residuals"] = keep_residuals
    if cache is not None:
        fixed = {"--prompts": prompts, "--mid": mid, "--dtype": dtype}
        fixed |= {"--template": template is not TemplateName.plain}
        _refuse("with --cache", alone | together | fixed)
        _from_cache(arguments, cache, out or Path("runs") / f"{cache.name}-lens", top_k, device)
        return
    _refuse("with --prompts", alone if prompts is not None else {})
    _refuse("without --prompts", together | {"--out": out} if prompts is None else {})
    if prompts is not None:
        from lensbench.cli.run import run_and_report
        from lensbench.studies.lens_spec import RunSpec

        spec = RunSpec(
            models=tuple(arguments),
            prompts=prompts,
            relations=tuple(relation or ()),
            limit=limit,
            top_k=top_k,
            template=template.value,
            sites=_points(mid),
            dtype=dtype.value if dtype else None,
            device=device,
            keep_residuals=keep_residuals,
        )
        run_and_report(spec, out or Path("runs") / Path(prompts).stem)
        return
    if len(arguments) < 2:
        raise typer.BadParameter('give a model and a prompt: lensbench lens MODEL "PROMPT"')
    *models, prompt = arguments

    collected: list[dict[str, Any]] = []
    for name in models:
        model = load(name, dtype, device, allow_field, trust_remote_code)
        result = _read(model, prompt, answer, lens_name, top_k, mid, template)
        if json:
            collected += _rows(result, position)
        else:
            _show(model, result, position)
        if html is not None:
            _write_html(result, _html_path(html, name, many=len(models) > 1))
    if json:
        typer.echo(jsonlib.dumps(collected, indent=1, ensure_ascii=False, allow_nan=False))


def _refuse(how: str, options: dict[str, Any]) -> None:
    """An option that would have no effect is an error, not a surprise."""
    given = [name for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(f"{', '.join(given)} has no effect {how}")


def _from_cache(models: list[str], cache: Path, out: Path, top_k: int, device: str | None) -> None:
    """The record of a live run of the cache's prompts, and its reports."""
    from lensbench.cli.console import batch_progress, interruptible, show_problems
    from lensbench.cli.run import show_reports
    from lensbench.studies.cached import run_cached

    if len(models) != 1:
        raise typer.BadParameter("--cache goes with the one model it is of and no prompt")
    with interruptible():
        with batch_progress() as progress:
            folder, problems = run_cached(models[0], cache, out, top_k, device, progress)
        show_problems(problems)
        show_reports([folder], out)
    if problems:
        raise typer.Exit(1)


def _read(
    model: LensModel,
    prompt: str,
    answer: str | None,
    lens: LensName,
    top_k: int,
    mid: bool,
    template: TemplateName,
) -> LensResult:
    """The lens at every position, following `answer` or else the model's own next token."""
    from dataclasses import replace

    from lensbench.lens.result import read
    from lensbench.lens.settings import LensSettings
    from lensbench.prompts.encode import Encoder, TokenText, Word
    from lensbench.prompts.prompt import Prompt
    from lensbench.residuals.capture import residual_stream

    encoder = Encoder(model.tokenizer, model.n_ctx, template.value)
    encoded = encoder.encode(Prompt(id="prompt", prompt=prompt, answer=answer))
    if encoded.answer is None:
        token = int(residual_stream(model, encoded.token_ids).logits[0, -1].argmax())
        own = Word(TokenText(model.tokenizer)(token), (token,))
        encoded = replace(encoded, answer=own)
    settings = LensSettings((lens.value,), _points(mid), positions="all", top_k=top_k)
    return read(model, [encoded], settings)


def _points(mid: bool) -> tuple[str, ...]:
    return ("embed", "resid_mid", "resid_post") if mid else ("embed", "resid_post")


def _at(result: LensResult, position: int) -> Any:
    """The rows of one position, by depth."""
    from lensbench.errors import InputProblems, Problem

    frame = result.to_pandas()
    length = int(frame.position.max()) + 1
    wanted = position + length if position < 0 else position
    if not 0 <= wanted < length:
        what = f"the prompt has {length} positions, no {position}"
        raise InputProblems([Problem("--position", what, f"Give -{length} to {length - 1}.")])
    return frame[frame.position == wanted].sort_values("depth")


def _rows(result: LensResult, position: int) -> list[dict[str, Any]]:
    """JSON-safe rows: lists for arrays, null for what cannot be measured."""
    return list(jsonlib.loads(_at(result, position).to_json(orient="records", force_ascii=False)))


def _show(model: LensModel, result: LensResult, position: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import JustifyMethod
    from rich.table import Table
    from rich.text import Text

    from lensbench.cli.console import results
    from lensbench.escape import printable, visible
    from lensbench.lens.gate import lens_identity
    from lensbench.prompts.encode import TokenText

    frame = _at(result, position)
    followed = visible(TokenText(model.tokenizer)(int(frame.answer_id.iloc[0])))
    at = f"position {frame.position.iloc[0]}, {visible(frame.token.iloc[0])!r}"
    results.print(
        Text(f"{printable(result.model)}: {printable(result.prompts['text'][0].as_py())} ({at})")
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("layer", "top tokens", "p", "entropy", "KL", f"p({followed})", "rank"):
        justify: JustifyMethod = "left" if heading == "top tokens" else "right"
        table.add_column(Text(heading), justify=justify, no_wrap=True)
    room = max(results.width - 58, 16)  # what the numbers leave for the tokens
    for row in frame.itertuples():
        name = f"{row.layer} mid" if row.site == "resid_mid" else str(row.layer)
        tokens = Text(" ".join(visible(token) for token in row.top_tokens))
        tokens.truncate(room, overflow="ellipsis")
        table.add_row(
            name,
            tokens,
            f"{row.top_probs[0]:.3f}",
            f"{row.entropy_bits:.2f}",
            f"{row.kl_bits:.2f}",
            f"{row.answer_prob:.3f}",
            Text(f"{row.answer_rank:,.0f}", style="bold green" if row.answer_rank == 1 else ""),
        )
    results.print(table)
    gate = lens_identity(model, result.gate_kl_bits)
    results.print(
        f"entropy and KL(model || lens) in bits; layer 0 is the embedding; the last layer is the "
        f"model within {gate.error:.1e} bits (bound {gate.bound:.0e})",
        highlight=False,
    )


def _html_path(path: Path, model: str, many: bool) -> Path:
    from lensbench.records.store import folder_name

    return path.with_stem(f"{path.stem}-{folder_name(model)}") if many else path


def _write_html(result: LensResult, path: Path) -> None:
    from lensbench.cli.console import messages
    from lensbench.files import write_text

    write_text(path, result.plot().to_html(include_plotlyjs=True, div_id="heatmap"))
    messages.print(f"wrote {path}", markup=False, highlight=False)
