"""lm-eval's own tasks, by name."""

from __future__ import annotations

from typing import Any

from lm_eval.tasks import TaskManager  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import StageError, untrusted
from smolrecipe_lm_eval import problems
from smolrecipe_lm_eval.harness import evaluate_tasks, language_model, think_end
from smolrecipe_lm_eval.options import EvaluateOptions
from smolrecipe_lm_eval.scores import results_by_task

_ANY_CONVERSATION = [{"messages": [{"role": "user", "content": "Hello"}]}]


def run_named_tasks(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    manager: TaskManager,
    options: EvaluateOptions,
) -> dict[str, Any]:
    """The results of each task.

    Raises:
        StageError: when the chat template does not render, or a task does not run: its data or a package that it takes
            is not there, or it would run code that the model wrote.
    """
    if options.apply_chat_template:
        problems.prompts(_ANY_CONVERSATION, tokenizer, name)  # lm-eval renders without a bound
    lm = language_model(
        model,
        tokenizer,
        options.batch_size,
        think_end_token=think_end(tokenizer, options.think_end) if options.apply_chat_template else None,
        enable_thinking=options.enable_thinking,
    )
    with untrusted(f"lm-eval does not run its tasks ({', '.join(options.tasks)}) on '{name}'"):
        try:
            output = evaluate_tasks(
                lm,
                list(options.tasks),
                options,
                task_manager=manager,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.apply_chat_template,
                system_instruction=options.system_instruction,
                gen_kwargs=dict(options.generation.arguments) or None,
                limit=options.limit,
                log_samples=False,
            )
        except ValueError as error:
            if "marked as unsafe" in str(error):  # lm-eval names the task first
                which = str(error).partition(" which is")[0].removeprefix("Attempted to run task: ")
                raise StageError(
                    f"task '{which}' runs code that the model has written, which this stage does not: leave it out of "
                    "'tasks'"
                ) from None
            raise
    return results_by_task(output)
