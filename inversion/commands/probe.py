"""``inversion probe``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from inversion.commands.options import OnWorkers, numbers, option, pairs, part, required, settings, texts, two_texts
from inversion.errors import InputError
from inversion.scoring import KINDS

if TYPE_CHECKING:
    from inversion.responses import Frame, Source
    from inversion.responses.server import Server


@dataclass(frozen=True)
class Probe(OnWorkers):
    """Measure a model on prompts and write a run; a run that was interrupted goes on."""

    model: str = required("shipped model (fast, half, slow), smollm2, model or adapter folder, GGUF file or hub id")
    prompts: str = required(
        "JSONL, JSON, CSV, TSV or Parquet file; data set folder or hub name; benchmark (gsm8k, math500, aime24, "
        "aime25, svamp); reasoning-gym task; or demo, the shipped problems"
    )
    out: str = required("folder of the run")
    limit: int | None = option("most prompts to use", None, type=int)
    seed: int = option("seed of sampling, of drawn targets and of random weights", 0, type=int)
    overwrite: bool = option("replace another run in OUT", False)
    columns: dict[str, str] | None = option(
        "which column is what, such as prompt=question,answer=gold; a+b joins two, an empty name leaves one out",
        None,
        type=pairs,
        heading="reading the prompts",
    )
    benchmark: str | None = option("read a file as this benchmark: its columns, known answers and scorer", None)
    subset: str | None = option("configuration of a data set that has several", None)
    split: str | None = option("split of a data set that has several", None)
    prompts_revision: str | None = option("branch, tag or commit of a hub data set", None)
    task_options: dict[str, Any] | None = option(
        "settings of the task's generator, such as max_terms=4,max_digits=2", None, type=settings
    )
    samples: int | None = option("responses per prompt", None, type=int)
    scorer: str | None = option(
        "how responses are scored; by default as the benchmark or task has it, else tags", None, choices=KINDS
    )
    too_long: str = option(
        "what becomes of a row that the context cannot hold", "skip", choices=("skip", "cut", "refuse")
    )
    template: str | None = option(
        "text around each question, with {prompt} where it goes; or qa (for base models) or boxed",
        None,
        heading="what stands around each question",
    )
    num_fewshot: int = option("worked examples before each question", 0, type=int)
    fewshot_from: str | None = option("where those come from; by default the benchmark's training split", None)
    chat: bool = option("apply the checkpoint's chat template", False)
    system: str | None = option("system message of the chat", None)
    chat_options: dict[str, Any] | None = option(
        "variables of the chat template, such as enable_thinking=true", None, type=settings
    )
    think_tags: tuple[str, ...] = option(
        "what opens and closes the model's thinking", ("<think>", "</think>"), type=two_texts
    )
    temperature: float = option(
        "of sampling; 0 takes the most probable token", 1.0, type=float, heading="writing responses that are missing"
    )
    max_new_tokens: int = option("longest generated response", 512, type=int)
    top_p: float = option("sample among the most probable tokens that hold this probability", 1.0, type=float)
    top_k: int = option("sample among this many most probable tokens; 0 takes all", 0, type=int)
    stop: tuple[str, ...] = option(r"comma-separated texts that end a response, such as \nQuestion:", (), type=texts)
    batch: int = option("responses generated together", 16, type=int)
    server: str | None = option(
        "have responses written by an OpenAI-compatible server at this address, such as http://localhost:8000",
        None,
        heading="having them written by a server",
    )
    server_model: str | None = option("name of the model there; by default the only one it lists", None)
    concurrency: int = option("requests to the server at the same time", 16, type=int)
    timeout: float = option("seconds that the server may take for one response", 600.0, type=float)
    norms: tuple[str, ...] = option(
        "comma-separated: nuclear, frobenius, spectral, l1", ("nuclear", "frobenius"), heading="measuring"
    )
    layers: tuple[int, ...] | None = option("comma-separated; negative ones count from the end", None, type=numbers)
    projections: tuple[str, ...] = option("comma-separated: q, k, v, o", ("q", "k", "v", "o"))
    quantity: str = option("what is differentiated", "logit", choices=("logit", "log_prob", "entropy"))
    targets: int | None = option("draw this many tokens of each response", None, type=int)
    dtype: str = option("float32, float64, bfloat16 or float16", "float32", heading="the model")
    device: str = option("auto, cpu, cuda, ...", "auto")
    device_map: str | None = option("auto spreads the model over this machine's GPUs", None, choices=("auto",))
    revision: str | None = option("branch, tag or commit of a hub model", None)
    gguf_file: str | None = option("GGUF file in the model's folder or repository; it is dequantised", None)
    random_weights: bool = option("keep the architecture, draw new weights: the control model", False)
    trust_remote_code: bool = option("run code that comes with the checkpoint", False)
    dry_run: bool = option(
        "print what it would take (memory, time, disk) and what other choices would; do nothing", False
    )
    shard: int = option("responses stored together", 16, type=int, heading="large runs")
    part: tuple[int, int] | None = option(
        "measure one of several parts only, such as 2/8; all may run at once, into the same OUT", None, type=part
    )
    wait: bool = option("wait while another process writes to OUT", False)
    log_format: str = option("how to tell of progress", "auto", choices=("auto", "bar", "plain", "json"))

    def __call__(self) -> None:
        """Run the command."""
        self.measure()

    def measure(self, mend: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Run the command; ``mend`` is handed to :func:`inversion.measure_run`."""
        from inversion.responses import Generation

        source = self._source()
        frame = self._frame()
        problems = source.read()
        if self.temperature == 0 and (self.samples or 1) > 1 and not problems[0].written:
            raise InputError("at temperature 0 every sample of a prompt is the same; raise it or leave --samples out.")
        generation = Generation(self.temperature, self.max_new_tokens, self.top_p, self.top_k, self.stop)
        from transformers.utils.logging import disable_progress_bar

        from inversion.checking import write_command
        from inversion.commands.dry_run import print_estimates
        from inversion.measure import Measurement, measure_run
        from inversion.models import load_model
        from inversion.preparation import Preparation, prepare
        from inversion.runs import summary

        disable_progress_bar()  # of loading weights, which takes no time; downloads still show theirs
        measurement = Measurement(self.norms, self.layers, self.projections, self.quantity, self.targets)  # pyright: ignore[reportArgumentType]
        preparation = Preparation(frame, self.too_long, self.think_tags, self._server())  # pyright: ignore[reportArgumentType]
        if self.dry_run:
            print_estimates(
                lambda dtype: load_model(self.model, self.device, dtype, **self._loading()),
                lambda model: prepare(model, problems, preparation).encoded,
                measurement,
                self.dtype,
                self.max_new_tokens,
            )
            return
        folder = measure_run(
            partial(load_model, self.model, self.device, self.dtype, **self._loading()),
            problems,
            self.out,
            source=source,
            measurement=measurement,
            generation=generation,
            preparation=preparation,
            seed=self.seed,
            overwrite=self.overwrite,
            batch=self.batch,
            shard=self.shard,
            workers=self.replicas(),
            part=self.part,
            wait=self.wait,
            log=self.log_format,
            mend=mend,
        )
        write_command(folder, self)
        print(summary(folder))

    def _server(self) -> "Server | None":
        from inversion.responses.server import Server

        return Server(self.server, self.server_model, self.concurrency, self.timeout) if self.server else None

    def _loading(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "gguf_file": self.gguf_file,
            "trust_remote_code": self.trust_remote_code,
            "random_weights": self.random_weights,
            "seed": self.seed,
            "device_map": self.device_map,
        }

    def _source(self) -> "Source":
        from inversion.responses import Source

        return Source(
            self.prompts,
            self.limit,
            self.seed,
            self.task_options or {},
            self.columns or {},
            self.benchmark,
            self.subset,
            self.split,
            self.prompts_revision,
            self.samples,
            self.scorer,
        )

    def _frame(self) -> "Frame":
        from inversion.responses import Frame, few_shot_source, read_examples

        examples = ()
        if self.num_fewshot:
            source = few_shot_source(self.fewshot_from, self.benchmark, self.prompts)
            examples = read_examples(source, self.num_fewshot)
        return Frame(self.template, examples, self.chat, self.system, self.chat_options or {})
