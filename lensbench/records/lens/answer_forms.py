"""How answers were joined to their prompts, and where the other form is what the model says."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from lensbench.escape import visible

_JOINTS = {
    "space": "after a space",
    "none": "with nothing between",
    "written": "with the white space that is written in it",
    "space_token": "after a space that is a token of its own and ends the prompt",
}


def likelier_forms(prompts: pd.DataFrame, last: pd.DataFrame) -> pd.DataFrame:
    """Prompts whose answer the model finds likelier in its other form, with or without the space.

    Args:
        prompts: a record's table `prompts`, by prompt_id.
        last: its table `lens` of one lens, after the last block at the last position.

    Returns prompt_id, answer_token, answer_rank, answer_prob, answer_other_token,
    answer_other_rank, answer_other_prob, worst first.
    """
    found = last[last["answer_other_prob"] > last["answer_prob"]]
    tokens = prompts[["answer_token", "answer_other_token"]]
    columns = [
        "prompt_id",
        *("answer_token", "answer_rank", "answer_prob"),
        *("answer_other_token", "answer_other_rank", "answer_other_prob"),
    ]
    return found.join(tokens, on="prompt_id").sort_values(
        ["answer_other_prob", "prompt_id"], ascending=[False, True], ignore_index=True
    )[columns]


def said_of_forms(prompts: pd.DataFrame, last: pd.DataFrame) -> Iterator[str]:
    """Sentences on what a reader would not expect of the joints; none where all is plain."""
    answered = prompts[prompts["answer_id"].notna()]
    joints = answered["answer_joint"].value_counts()
    for joint in _JOINTS:
        if joint != "space" and joints.get(joint, 0):
            yield f"{joints[joint]} of {len(answered)} answer(s) scored {_JOINTS[joint]}"
    if split := int(answered["answer_split"].eq(True).sum()):
        yield (
            f"{split} answer(s) would merge with the end of the prompt: they are scored apart "
            "from it, as the prompt is asked; without the space at its end the model may know more"
        )
    likelier = likelier_forms(prompts, last)
    if len(likelier):
        row = likelier.iloc[0]
        yield (
            f"{len(likelier)} answer(s) are likelier in their other form, such as "
            f"{visible(row['answer_other_token'])!r} (rank {row['answer_other_rank']:.0f}, p "
            f"{row['answer_other_prob']:.3f}) for {visible(row['answer_token'])!r} (rank "
            f"{row['answer_rank']:.0f}, p {row['answer_prob']:.3f}) in {row['prompt_id']}: "
            "write the space that you mean in the answer or the prompt"
        )
