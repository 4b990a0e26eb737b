#!/usr/bin/env python3
"""Bakelite against what else runs these networks on this GPU: the same networks, weights, ONNX files, batch and precision.

    python3 benches/peers.py --bakelite target/release/bakelite --models resnet50,bert_base --batches 1,32 --json out.json

Results are merged into the JSON file, and what it has is not measured again (but with --again), so a long comparison can
be made in pieces: one model, or one peer, in each call. Every peer runs in a process of its own with a time limit; one
that fails, hangs or is not installed is recorded as such. All results of a file are from one GPU, driver and set of
versions: a call that finds others refuses to mix them.

GPU times are medians by CUDA events over replays with inputs on the device, in fresh random inputs for each process; host
times are from pinned memory to pinned memory. `error` is the relative error against PyTorch in float32 (without tf32).
"""
import argparse
import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import platform
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import layers

HERE = pathlib.Path(__file__).resolve().parent
# Of a single layer in one graph.
REPEATS = 20
# Runs that the device is given ahead.
AHEAD = 16
PEERS = ["torch-eager", "torch-graph", "torch-compile", "onnxruntime", "tensorrt", "bakelite"]
# Made ready beside others: the first two load, the last one builds; each then runs alone.
TOGETHER = ["torch-eager", "torch-graph", "torch-compile"]
MODELS = "resnet50,mobilenet_v2,efficientnet_b0,vit_b_16,bert_base,gpt2,yolo_like_n,unet_small"


class Unavailable(Exception):
    """The peer is not installed here."""


# ---------------------------------------------------------------- in the process of one peer


def torch_on_gpu(precision):
    import torch

    if not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    return torch


def element(precision):
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)


def cast(tensors, dtype):
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def fresh(name, batch, precision):
    import models
    import torch

    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    return cast(models.inputs(name, batch, "cuda"), element(precision))


def network(spec):
    import models

    return models.build(spec["model"], "sdpa", "cuda", spec["weights"]).to(element(spec["precision"]))


def sample(spec):
    """The inputs and the float32 result that every peer's result is compared with."""
    import numpy

    with numpy.load(spec["reference"]) as arrays:
        return arrays["input"], arrays["output"]


def bits(tensor):
    """An array; NumPy lacks bfloat16, of which it holds the bits."""
    import torch

    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def widened(array):
    """The numbers of such an array; others as they are."""
    import numpy

    return (array.astype(numpy.uint32) << 16).view(numpy.float32) if array.dtype == numpy.uint16 else array


def relative_error(got, want):
    import numpy

    got, want = got.astype(numpy.float64), want.astype(numpy.float64)
    return float(numpy.linalg.norm(got - want) / max(numpy.linalg.norm(want), 1e-30))


def event_times(run, least, stream=None):
    """µs of single runs on the device: at least `least`, for at least a second, after some to warm up. The device has the next runs
    before it ends one, so that no time is in them for which it waits for the host to launch."""
    import torch

    stream = stream or torch.cuda.current_stream()
    times, began = [], time.perf_counter()
    for _ in range(10):
        run()
    torch.cuda.synchronize()
    while len(times) < least or (time.perf_counter() - began < 1.0 and len(times) < 20 * least):
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(AHEAD + 1)]
        for begin, end in marks:
            begin.record(stream)
            run()
            end.record(stream)
        marks[-1][1].synchronize()
        # The first waited for the host.
        times += [begin.elapsed_time(end) * 1e3 for begin, end in marks[1:]]
    return times


def host_times(run, least):
    for _ in range(5):
        run()
    times = []
    for _ in range(least):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e6)
    return times


def summary(gpu, host, more):
    ordered = sorted(gpu)
    return {
        "gpu_us": round(statistics.median(gpu), 2),
        "gpu_p99_us": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "host_us": round(statistics.median(host), 2) if host else None,
        "replays": len(gpu),
        **more,
    }


def timed(spec, run, inputs, output, more, stream=None):
    """Times a run that reads `inputs` and leaves its result in `output()`."""
    import torch

    gpu = event_times(run, spec["replays"], stream)
    pinned = [t.cpu().pin_memory() for t in inputs]
    result = torch.empty(output().shape, dtype=output().dtype, pin_memory=True)

    def whole():
        for host, device in zip(pinned, inputs):
            device.copy_(host, non_blocking=True)
        run()
        result.copy_(output(), non_blocking=True)
        torch.cuda.synchronize()

    with torch.cuda.stream(stream or torch.cuda.current_stream()):
        host = host_times(whole, spec["replays"])
    return summary(gpu, host, more)


def prepare(spec):
    """Weights, the ONNX file, and a float32 reference for one input."""
    import numpy

    torch = torch_on_gpu("fp32")
    import models

    name, batch, dtype = spec["model"], spec["batch"], element(spec["precision"])
    # PyTorch's own attention is a graph of one operator for the exporter too, but not with every version's masks.
    model = models.build(name, "eager", "cuda")
    torch.save(model.state_dict(), spec["weights"])
    # The reference computes in float32 with weights and inputs as the precision holds them.
    model.to(dtype)
    torch.manual_seed(1)
    xs = cast(models.inputs(name, batch, "cuda"), dtype)
    with torch.no_grad():
        torch.onnx.export(
            model,
            xs,
            spec["onnx"],
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
            do_constant_folding=True,
        )
        want = model.float()(*cast(xs, torch.float32))
    numpy.savez(spec["reference"], input=bits(xs[0]), output=want.float().cpu().numpy())
    return {}


def torch_eager(spec):
    torch = torch_on_gpu(spec["precision"])
    began = time.time()
    model = network(spec)
    began += take_turn(spec)
    xs = fresh(spec["model"], spec["batch"], spec["precision"])
    results = [None]

    def run():
        results[0] = model(*xs)

    with torch.no_grad():
        run()
        torch.cuda.synchronize()
        build = time.time() - began
        row = timed(spec, run, xs, lambda: results[0], built(spec, build))
        row["error"] = check(spec, xs, run, lambda: results[0])
    return row


def built(spec, seconds):
    """How long it took, and how many were built beside each other, which is no time to compare."""
    return {"build_s": round(seconds, 2), "builds_at_once": spec.get("jobs", 1)}


def torch_graph(spec):
    torch = torch_on_gpu(spec["precision"])
    began = time.time()
    model = network(spec)
    began += take_turn(spec)
    xs = fresh(spec["model"], spec["batch"], spec["precision"])
    # The layout that tensor cores want, for networks of images.
    if xs[0].dim() == 4:
        model = model.to(memory_format=torch.channels_last)
        xs = tuple(x.contiguous(memory_format=torch.channels_last) for x in xs)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(*xs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = model(*xs)
        more = built(spec, time.time() - began)
        if layers.sizes(spec["model"]):
            # As Bakelite times a step alone: many in one graph, so that what a launch costs the host is not in it.
            many = torch.cuda.CUDAGraph()
            with torch.cuda.graph(many):
                for _ in range(REPEATS):
                    model(*xs)
            more["kernel_us"] = round(statistics.median(event_times(many.replay, 30)) / REPEATS, 2)
    row = timed(spec, graph.replay, xs, lambda: result, more)
    row["error"] = check(spec, xs, graph.replay, lambda: result)
    return row


def torch_compile(spec):
    # What an earlier run left behind would shorten the build.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    torch = torch_on_gpu(spec["precision"])
    import torch._inductor.config

    torch._inductor.config.freezing = True
    began = time.time()
    model = network(spec)
    xs = fresh(spec["model"], spec["batch"], spec["precision"])
    if xs[0].dim() == 4:
        model = model.to(memory_format=torch.channels_last)
        xs = tuple(x.contiguous(memory_format=torch.channels_last) for x in xs)
    compiled = torch.compile(model, mode="max-autotune", fullgraph=True)
    results = [None]

    def run():
        results[0] = compiled(*xs)

    with torch.no_grad():
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        build = time.time() - began
        take_turn(spec)
        row = timed(spec, run, xs, lambda: results[0], built(spec, build))
        row["error"] = check(spec, xs, run, lambda: results[0])
    return row


def take_turn(spec):
    """Says that it is ready, and waits until everything else that is being made ready stands still; the seconds waited."""
    if "gate" not in spec:
        return 0
    began, gate = time.time(), pathlib.Path(spec["gate"])
    gate.with_suffix(".ready").touch()
    while not gate.with_suffix(".go").exists():
        time.sleep(0.02)
    return time.time() - began


def check(spec, xs, run, output):
    """The error on the sample, which is put where the timed inputs are."""
    import torch

    given, want = sample(spec)
    given = torch.from_numpy(given)
    xs[0].copy_(given.view(torch.bfloat16) if given.dtype == torch.uint16 else given)
    run()
    torch.cuda.synchronize()
    return relative_error(output().float().cpu().numpy(), want)


def onnxruntime(spec):
    torch = torch_on_gpu(spec["precision"])
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise Unavailable(str(e))
    if spec["precision"] == "bf16":
        raise Unavailable("its tensors are bound as NumPy's, which has no bfloat16")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise Unavailable(f"onnxruntime {ort.__version__} has no CUDA provider")
    # The CUDA libraries of PyTorch's wheels.
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    stream = torch.cuda.Stream()
    given, want = sample(spec)
    options = {
        "enable_cuda_graph": "1",
        "use_tf32": "1" if spec["precision"] == "tf32" else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "1" if given.ndim == 4 else "0",
        "user_compute_stream": str(stream.cuda_stream),
    }
    began = time.time()
    session = ort.InferenceSession(spec["onnx"], providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise Unavailable("onnxruntime's CUDA provider did not load")
    xs = fresh(spec["model"], spec["batch"], spec["precision"])
    x, y = xs[0].contiguous(), torch.empty(want.shape, dtype=element(spec["precision"]), device="cuda")
    binding = session.io_binding()
    kind = {"float16": "float16", "float32": "float32", "int64": "int64"}
    import numpy

    for bind, name, t in ((binding.bind_input, "input", x), (binding.bind_output, "output", y)):
        dtype = getattr(numpy, kind[str(t.dtype).removeprefix("torch.")])
        bind(name, "cuda", 0, dtype, tuple(t.shape), t.data_ptr())
    torch.cuda.synchronize()

    def run():
        session.run_with_iobinding(binding)

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    build = time.time() - began
    row = timed(spec, run, (x,), lambda: y, {"build_s": round(build, 2)}, stream)
    row["error"] = check(spec, (x,), run, lambda: y)
    return row


def tensorrt(spec):
    torch = torch_on_gpu(spec["precision"])
    try:
        import tensorrt as trt
    except ImportError as e:
        raise Unavailable(str(e))
    logger = trt.Logger(trt.Logger.ERROR)
    began = time.time()
    builder = trt.Builder(logger)
    # Types are those of the file, as for every other peer.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse_from_file(spec["onnx"]):
        raise RuntimeError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 8 << 30)
    config.builder_optimization_level = 5
    if spec["precision"] != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(definition, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine")
    build = time.time() - began
    began = time.time()
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    load = (time.time() - began) * 1e3
    _, want = sample(spec)
    xs = fresh(spec["model"], spec["batch"], spec["precision"])
    y = torch.empty(want.shape, dtype=element(spec["precision"]), device="cuda")
    context.set_tensor_address("input", xs[0].data_ptr())
    context.set_tensor_address("output", y.data_ptr())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    more = {"build_s": round(build, 2), "load_ms": round(load, 2)}
    row = timed(spec, graph.replay, xs, lambda: y, more)
    row["error"] = check(spec, xs, graph.replay, lambda: y)
    return row


def versions(_spec):
    found = {"python": platform.python_version()}
    for module in ("torch", "torchvision", "transformers", "onnxruntime", "tensorrt"):
        try:
            found[module] = __import__(module).__version__
        except Exception:
            found[module] = None
    if found["torch"]:
        import torch

        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


CHILDREN = {
    "versions": versions,
    "prepare": prepare,
    "torch-eager": torch_eager,
    "torch-graph": torch_graph,
    "torch-compile": torch_compile,
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}


def child(task, spec, answer):
    sys.path.insert(0, str(HERE))
    try:
        outcome = {"status": "ok", **CHILDREN[task](spec)}
    except Unavailable as e:
        outcome = {"status": "unavailable", "why": str(e)}
    except Exception as e:
        text = re.sub(r"\s+", " ", f"{type(e).__name__}: {e}")
        outcome = {"status": "failed", "why": text[:400]}
    pathlib.Path(answer).write_text(json.dumps(outcome))


# ---------------------------------------------------------------- the process that the user starts


def limited(command, seconds, environment=None):
    """Runs a command with a limit; its process group ends with it. Gives the exit status (None: too slow) and its text."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment,
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return None, text


def child_command(task, spec, answer):
    return [sys.executable, __file__, "--child", task, json.dumps(spec), str(answer)]


def ask(task, spec, seconds, work, environment=None):
    """What a child process answers."""
    answer = work / f"answer-{os.getpid()}-{task}-{pathlib.Path(spec.get('onnx', 'any')).stem}.json"
    answer.unlink(missing_ok=True)
    status, text = limited(child_command(task, spec, answer), seconds, environment)
    if status is None:
        return {"status": "timeout", "why": f"not done after {seconds} s"}
    if answer.exists():
        outcome = json.loads(answer.read_text())
        answer.unlink()
        return outcome
    return {"status": "failed", "why": f"exit status {status}: {tail(text)}"}


class Build:
    """A peer that is built beside others, and measured alone."""

    def __init__(self, task, spec, seconds, work, jobs):
        stem = work / f"{task}-{pathlib.Path(spec['onnx']).stem}"
        self.answer, self.log, self.gate = (stem.with_suffix(s) for s in (".answer", ".log", ".gate"))
        for path in (self.answer, self.gate.with_suffix(".ready"), self.gate.with_suffix(".go")):
            path.unlink(missing_ok=True)
        spec = {**spec, "gate": str(self.gate), "jobs": jobs}
        command = child_command(task, spec, self.answer)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.seconds, self.end = seconds, time.time() + seconds

    def is_ready(self):
        return self.gate.with_suffix(".ready").exists()

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def outcome(self):
        """What it answers, once it has ended."""
        if self.answer.exists():
            return json.loads(self.answer.read_text())
        return {"status": "failed", "why": f"exit status {self.process.returncode}: {tail(self.log.read_text())}"}

    def measured(self, others):
        """Measures it while the others stand still; nobody's limit runs meanwhile."""
        began = time.time()
        for other in others:
            other.signal(signal.SIGSTOP)
        time.sleep(0.5)
        self.gate.with_suffix(".go").touch()
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        for other in others:
            other.signal(signal.SIGCONT)
            other.end += time.time() - began
        return self.outcome()


def built_together(todo, jobs, limit, work, record):
    """Builds `todo` (task and specification), `jobs` at once, and records each as it is measured."""
    waiting, building = list(todo), []
    while waiting or building:
        while waiting and len(building) < jobs:
            task, spec = waiting.pop(0)
            building.append((spec, task, Build(task, spec, limit, work, jobs)))
        for entry in list(building):
            spec, task, build = entry
            others = [b for _, _, b in building if b is not build]
            if build.is_ready():
                outcome = build.measured(others)
            elif build.process.poll() is not None:
                outcome = build.outcome()
            elif time.time() > build.end:
                build.signal(signal.SIGKILL)
                build.process.wait()
                outcome = {"status": "timeout", "why": f"not done after {limit} s, {jobs} builds at once"}
            else:
                continue
            building.remove(entry)
            record(spec, task, outcome)
        time.sleep(0.1)


def tail(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[:400]


def tactics_of(arguments, spec, work):
    return pathlib.Path(arguments.tactics or work) / f"{pathlib.Path(spec['onnx']).stem}.tactics"


def of_bakelite(command, arguments, spec, work):
    more = ["--nvrtc", arguments.nvrtc] if arguments.nvrtc else []
    tactics = ["--tactics", str(tactics_of(arguments, spec, work))]
    return [arguments.bakelite, command, spec["onnx"], "--precision", spec["precision"], *tactics, *more]


def tune(arguments, spec, work, environment=None):
    """Exit status and text of the command line, its seconds, and whether there was a tactics file before."""
    file = tactics_of(arguments, spec, work)
    if not arguments.tactics:
        file.unlink(missing_ok=True)
    known, began = file.exists(), time.time()
    command = [*of_bakelite("tune", arguments, spec, work), "--effort", arguments.effort]
    return *limited(command, arguments.timeout, environment), time.time() - began, known


class Tuning:
    """Tunes on --gpus at once, each with its share of the cores; the first of them measures until somebody waits for the outcomes."""

    def __init__(self, arguments, specs, work):
        self.arguments, self.work, self.free = arguments, work, queue.SimpleQueue()
        for gpu in range(1, arguments.gpus):
            self.free.put(gpu)
        self.pool = concurrent.futures.ThreadPoolExecutor(arguments.gpus)
        self.outcomes = {spec["onnx"]: self.pool.submit(self.one, spec) for spec in specs}

    def one(self, spec):
        gpu, cores = self.free.get(), max(1, (os.cpu_count() or 1) // self.arguments.gpus)
        try:
            here = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu), "RAYON_NUM_THREADS": str(cores)}
            return tune(self.arguments, spec, self.work, here)
        finally:
            self.free.put(gpu)

    def done(self):
        """What each gave, by its file."""
        self.free.put(0)
        with self.pool:
            return {file: outcome.result() for file, outcome in self.outcomes.items()}


def bakelite(arguments, spec, work, tuned=None):
    """Tunes, unless it has been, and times with the command line, as a user would."""
    if not arguments.bakelite:
        return {"status": "unavailable", "why": "no --bakelite"}
    numbers = work / f"{pathlib.Path(spec['onnx']).stem}.bench.json"
    numbers.unlink(missing_ok=True)
    status, text, seconds, known = tuned or tune(arguments, spec, work)
    if status != 0:
        return refused("tune", status, text, arguments.timeout)
    bench = of_bakelite("bench", arguments, spec, work)
    bench += ["--json", str(numbers), "--iterations", str(max(300, spec["replays"]))]
    single = layers.sizes(spec["model"])
    if arguments.layers or single:
        bench.append("--layers")
    status, text = limited(bench, arguments.timeout)
    if status != 0:
        return refused("bench", status, text, arguments.timeout)
    found = json.loads(numbers.read_text())
    row = {
        "status": "ok",
        "gpu_us": round(found["gpu"]["median_us"], 2),
        "gpu_p99_us": round(found["gpu"]["p99_us"], 2),
        "host_us": round(found["host_to_host"]["median_us"], 2),
        "replays": found["replays"],
        "build_s": round(seconds, 2),
        "from_tactics": known,
        "load_ms": round(found["load_ms"], 2),
        "arena_bytes": found["arena_bytes"],
        "weight_bytes": found["weight_bytes"],
        "steps": found["steps"],
        "program": hashlib.sha256(pathlib.Path(shutil.which(arguments.bakelite)).read_bytes()).hexdigest()[:12],
    }
    if single:
        # The layer itself, without the steps that bring its operands into their layout, which may take longer.
        steps = [step for step in found["layers"]["steps"] if not step["tactic"].startswith("pointwise.")]
        row["kernel_us"] = round(max(step["alone_us"] for step in steps), 2)
    row["error"] = bakelite_error(arguments, spec, work)
    return row


def bakelite_error(arguments, spec, work):
    import numpy

    given, want = sample(spec)
    inputs, outputs = work / "inputs.npz", work / "outputs.npz"
    numpy.savez(inputs, input=given)
    outputs.unlink(missing_ok=True)
    run = of_bakelite("run", arguments, spec, work)
    run += ["--device", "gpu", "--inputs", str(inputs), "--outputs", str(outputs)]
    status, text = limited(run, arguments.timeout)
    if status != 0:
        print(f"    bakelite run: {tail(text)}", flush=True)
        return None
    with numpy.load(outputs) as arrays:
        return relative_error(widened(arrays["output"]), want)


def refused(what, status, text, seconds):
    if status is None:
        return {"status": "timeout", "why": f"bakelite {what}: not done after {seconds} s"}
    return {"status": "failed", "why": f"bakelite {what}, exit status {status}: {tail(text)}"}


def machine(arguments, work):
    """What the results belong to."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0"]
    try:
        status, text = limited(query, 60)
    except FileNotFoundError:
        sys.exit("there is no nvidia-smi, so no NVIDIA GPU to measure on")
    if status != 0:
        sys.exit(f"nvidia-smi: {tail(text)}")
    name, driver = (part.strip() for part in text.splitlines()[0].split(","))
    found = ask("versions", {}, 120, work)
    if found.pop("status") != "ok":
        sys.exit(f"the versions of the peers cannot be found: {found.get('why')}")
    if arguments.bakelite:
        status, text = limited([arguments.bakelite, "--version"], 60)
        if status != 0:
            sys.exit(f"{arguments.bakelite} --version: {tail(text)}")
        found["bakelite"] = text.split()[-1]
    cpu = re.findall(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    found["cpu"] = f"{cpu[0] if cpu else platform.machine()}, {os.cpu_count()} threads"
    return {"gpu": name, "driver": driver, "versions": found}


def merged(path, here):
    """The results so far, if they are from the same machine."""
    date = datetime.date.today().isoformat()
    if not path.exists():
        return {**here, "date": date, "rows": []}
    results = json.loads(path.read_text())
    for key in ("gpu", "driver"):
        if results[key] != here[key]:
            sys.exit(f"{path} has results of another {key}, {results[key]}, and this is {here[key]}: name another file")
    for key, version in here["versions"].items():
        old = results["versions"].setdefault(key, version)
        if old != version and key != "cpu":
            sys.exit(f"{path} has results of {key} {old}, and here is {version}: name another file")
    results["date"] = date
    return results


def write(path, results):
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    fresh.replace(path)


def key(row):
    return row["model"], row["batch"], row["precision"], row["peer"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bakelite", help="the bakelite program; without it only the others are measured")
    parser.add_argument("--models", default=MODELS, help="networks, single layers, or `layers` for all of layers.py; `NAME@1` at that batch alone")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--precision", default="fp16", choices=["fp16", "bf16", "fp32", "tf32"])
    parser.add_argument("--json", default="benches/peers.json", type=pathlib.Path)
    parser.add_argument("--work", default="target/peers", type=pathlib.Path, help="folder for ONNX files and weights")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--timeout", type=int, default=240, help="seconds for one step of one peer")
    parser.add_argument("--compile-timeout", type=int, default=300, help="seconds for torch.compile")
    parser.add_argument("--compiled", help="networks that torch.compile is asked for, which takes many minutes for some; else all")
    parser.add_argument("--jobs", type=int, default=1, help="exports, loads and builds at once; each is measured alone")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs, all alike, on which Bakelite tunes at once; the first measures, and tunes when the other peers are done")
    parser.add_argument("--budget", type=int, default=0, help="start nothing after so many seconds")
    parser.add_argument("--effort", default="normal", choices=["fast", "normal", "exhaustive"])
    parser.add_argument("--tactics", help="folder of tactics files to use and keep, such as benches/tactics; else tuned from nothing")
    parser.add_argument("--layers", action="store_true", help="keep Bakelite's per-layer view in the work folder")
    parser.add_argument("--nvrtc", help="folder of NVRTC, for bakelite")
    parser.add_argument("--again", action="store_true", help="measure what the file already has")
    arguments = parser.parse_args()
    began = time.time()
    peers, names = arguments.peers.split(","), arguments.models.split(",")
    names = [name for given in names for name in (layers.NAMES if given == "layers" else [given])]
    # `gpt2@1` is of batch 1 only.
    batches = {}
    for name, _, own in (name.partition("@") for name in names):
        batches[name] = (own or arguments.batches).split(",")
    names = list(batches)
    compiled = arguments.compiled.split(",") if arguments.compiled else names
    strange = [m for m in dict.fromkeys(names + compiled) if m not in MODELS.split(",") and not layers.sizes(m)]
    for unknown in [p for p in peers if p not in PEERS] + strange:
        parser.error(f"{unknown} is none of {', '.join(PEERS)}, {MODELS}, nor `layers` or a layer as layers.py names it")
    if arguments.bakelite and not shutil.which(arguments.bakelite):
        parser.error(f"--bakelite {arguments.bakelite}: there is no such program")
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.tactics:
        pathlib.Path(arguments.tactics).mkdir(parents=True, exist_ok=True)
    results = merged(arguments.json, machine(arguments, work))
    print(json.dumps({k: results[k] for k in ("gpu", "driver", "versions")}), flush=True)

    def record(spec, peer, row):
        row = {k: spec[k] for k in ("model", "batch", "precision")} | {"peer": peer, **row}
        results["rows"] = [r for r in results["rows"] if key(r) != key(row)] + [row]
        results["rows"].sort(key=lambda r: (names_order(r["model"]), r["batch"], PEERS.index(r["peer"])))
        write(arguments.json, results)
        shown = row.get("why") or f"{row['gpu_us']:.1f} µs, error {row['error']}, build {row['build_s']} s"
        print(f"{row['model']} batch {row['batch']} {peer}: {row['status']}: {shown}", flush=True)

    known = {key(row) for row in results["rows"] if row["status"] == "ok"}
    # Files of another definition of the networks are not taken for these.
    digest = hashlib.sha256((HERE / "models.py").read_bytes() + (HERE / "layers.py").read_bytes()).hexdigest()[:8]
    todo = []
    for name in names:
        for batch in map(int, batches[name]):
            # A layer is compared with the libraries' kernels, which a graph calls without more.
            able = [p for p in peers if p in ("torch-graph", "bakelite") or not layers.sizes(name)]
            able = [p for p in able if p != "torch-compile" or name in compiled]
            able = [p for p in able if arguments.again or (name, batch, arguments.precision, p) not in known]
            stem = work.resolve() / f"{name}_b{batch}_{arguments.precision}_{digest}"
            spec = {
                "model": name,
                "batch": batch,
                "precision": arguments.precision,
                "replays": max(100, arguments.replays),
                "onnx": f"{stem}.onnx",
                "weights": f"{stem}.pt",
                "reference": f"{stem}.npz",
            }
            todo += [(peer, spec) for peer in able]
    todo = exported(todo, arguments, work)

    def within_budget():
        if arguments.budget and time.time() - began > arguments.budget:
            sys.exit(f"the budget of {arguments.budget} s is spent; call again for the rest")

    within_budget()
    ours = [spec for peer, spec in todo if peer == "bakelite" and arguments.gpus > 1 and arguments.bakelite]
    tuning = Tuning(arguments, ours, work)
    together = [(peer, spec) for peer, spec in todo if peer in TOGETHER]
    built_together(together, arguments.jobs, arguments.compile_timeout, work, record)
    tuned = tuning.done()
    for peer, spec in todo:
        within_budget()
        if peer == "bakelite":
            record(spec, peer, bakelite(arguments, spec, work, tuned.get(spec["onnx"])))
        elif peer not in TOGETHER:
            record(spec, peer, ask(peer, spec, arguments.timeout, work))


def exported(todo, arguments, work):
    """What of `todo` has its ONNX file, weights and reference, which are made, --jobs at once, where they are missing."""
    specs = {spec["onnx"]: spec for _, spec in todo}
    missing = [s for s in specs.values() if not all(os.path.exists(s[k]) for k in ("onnx", "weights", "reference"))]
    # Threads of many exports that each take every core stand in each other's way.
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        made = list(pool.map(lambda spec: ask("prepare", spec, arguments.timeout, work, environment), missing))
    failed = {spec["onnx"] for spec, outcome in zip(missing, made) if outcome["status"] != "ok"}
    for spec, outcome in zip(missing, made):
        if outcome["status"] != "ok":
            print(f"{spec['model']} batch {spec['batch']}: it cannot be exported: {outcome['why']}", flush=True)
    return [(peer, spec) for peer, spec in todo if spec["onnx"] not in failed]


def names_order(name):
    known = [*MODELS.split(","), *layers.NAMES]
    return known.index(name) if name in known else len(known)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4])
    else:
        main()
