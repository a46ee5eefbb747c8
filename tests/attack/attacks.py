"""The attacks. Each is a function of a Ground that says what is done to the server,
and what must hold meanwhile; its docstring is the promise.
"""
import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc, models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc

import collision
from ground import ATTENTION, ENGLISH, HERE, LIMIT, MIB, RECALL, Refuted, eventually, expect, pause

ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__.replace("_", "-")] = function
    return function


# --- Requests.

def turn(model, ids=None, text=None, max_tokens=1, **fields):
    request = generation_pb2.GenerateRequest(model=model, **fields)
    if text is not None:
        request.text = text
    else:
        request.token_ids.ids.extend(ids or [1])
    request.stopping.max_tokens = max_tokens
    return request


def endless(model, **fields):
    request = turn(model, max_tokens=1 << 20, **fields)
    request.stopping.ignore_eos = True
    return request


def generate(channel, request, timeout=LIMIT):
    return generation_pb2_grpc.GenerationStub(channel).Generate(request, timeout=timeout)


def code_of(channel, request):
    """The status that a Generate ends with."""
    try:
        for _ in generate(channel, request):
            pass
        return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        return error.code(), error.details()


def unread(channel, method, request):
    """A call whose answer nobody reads: the transport takes a window's worth of it."""
    return channel.unary_stream(method, request_serializer=type(request).SerializeToString)(request, timeout=LIMIT)


def settle(server):
    """Until the server's memory has stopped growing for a second, or for 20 s."""
    largest, since, end = 0, time.monotonic(), time.monotonic() + 20
    while time.monotonic() - since < 1 and time.monotonic() < end:
        pause(0.05)
        if (now := server.memory()) > largest + MIB:
            largest, since = now, time.monotonic()


A = 65  # the token "a" of ENGLISH
WORDS = "In the beginning God created the heaven and the earth. "


# --- CPU and crashes.

@attack
def identity_collision(ground):
    """Two requests of one request_id whose unkeyed hashes are equal are two requests; nothing aborts."""
    constant = collision.secret()
    if constant is None:
        return "skipped: no xxhash.h to learn the constants from"
    with ground.server() as server, server.channel() as channel, ground.watched(server, growth=64 * MIB):
        text = "".join(answer.token.text + answer.completed.text
                       for answer in generate(channel, turn(ENGLISH, text="And God said", max_tokens=40)))
        letter = next(letter for letter in text[2:] if letter.isalpha())
        requests = []
        for stop in ("~", letter):
            request = turn(ENGLISH, text="And God said", max_tokens=40, session_id="attacked")
            request.stopping.stop.append(stop)
            request.sampling.seed = 1
            requests.append(request)
        unknown = b"\xc2\x3e"  # field 1000, of bytes
        heads = [request.SerializeToString() + unknown + b"\xa0\x03" for request in requests]
        tails = [tail + b"\0" * (0x1A0 - len(tail)) for tail in collision.collide(*heads, constant)]
        expect(collision.xxh3(heads[0] + tails[0]) == collision.xxh3(heads[1] + tails[1]), "the attack itself is wrong")
        codes = []
        for request, tail in zip(requests, tails):
            request.request_id = "attack"
            request.MergeFromString(unknown + b"\xa0\x03" + tail)
            codes.append(code_of(channel, request)[0].name)
        expect(codes == ["OK", "INVALID_ARGUMENT"], f"the two ended with {codes}")


@attack
def received_tokens(ground):
    """Matching stop strings over a million received tokens keeps no thread from others."""
    count = ground.size(8, 32)
    with ground.server() as server, ground.watched(server, worst=3, growth=1024 * MIB):
        # The text is "aaa...", and all of it may become a stop string.
        request = turn(ENGLISH, max_tokens=1 << 20, received_token_ids=[A] * ((1 << 20) - 1))
        request.stopping.ignore_eos = True
        request.stopping.stop.extend(["a" * (255 - i) + "b" for i in range(16)])
        with contextlib.ExitStack() as stack:
            calls = [generate(stack.enter_context(server.channel()), request, timeout=ground.size(6, 60))
                     for _ in range(count)]
            for call in calls:
                with contextlib.suppress(grpc.RpcError):
                    next(call)
            pause(1)


@attack
def long_prompts(ground):
    """Short prompts go on beside the longest ones."""
    with ground.server() as server, server.channel() as channel, ground.watched(server, worst=3):
        calls = [generate(channel, turn(RECALL, ids=[1] * (1 << 20), max_tokens=1)) for _ in range(2)]
        pause(ground.size(5, 30))
        for call in calls:
            call.cancel()


@attack
def overload(ground):
    """Ten times what it can do, and what is accepted is still good."""
    with ground.server("--slots", "16", "--request-log", "off", models=(ENGLISH,)) as server:
        def bench(*flags):
            done = subprocess.run(
                [ground.binaries / "engram-bench", "--server", server.address, "--model", ENGLISH, "--prompt-tokens",
                 "128", "--output-tokens", "32", "--goodput-ttft", "500", "--json", *flags],
                capture_output=True, text=True, timeout=LIMIT)
            expect(done.stdout.startswith("{"), f"engram-bench: {done.stderr[-500:]}")
            return json.loads(done.stdout)

        with ground.watched(server, ENGLISH, worst=10, failures=1 << 30):
            seconds = ground.size(4, 20)
            at_capacity = bench("--concurrency", "16", "--duration", f"{seconds}s")
            capacity = at_capacity["requests_per_second"]
            over = bench("--rate", str(int(10 * capacity)), "--duration", f"{seconds}s")
        good, best = over["goodput_requests_per_second"], at_capacity["goodput_requests_per_second"]
        # Four fifths, were it not for the client on the same cores.
        expect(good >= 0.25 * best, f"goodput {good:.1f}/s at 10 times the capacity, {best:.1f}/s at capacity")
        return f"goodput {best:.0f}/s at capacity, {good:.0f}/s at ten times of it"


@attack
def lists_and_forks(ground):
    """Lists of many sessions and forks of big ones by the hundred hold nobody up."""
    with ground.server("--request-log", "off", models=(ENGLISH, ATTENTION)) as server, server.channel() as channel:
        sessions = sessions_pb2_grpc.SessionsStub(channel)
        for _ in range(ground.size(30, 160)):
            for call in [sessions.Create.future(sessions_pb2.CreateSessionRequest(model=ENGLISH)) for _ in range(500)]:
                call.result()
        # Of 4 MB.
        code, told = code_of(channel, turn(ATTENTION, ids=[1] * 4000, session_id="big", max_tokens=0))
        expect(code == grpc.StatusCode.OK, told)
        with ground.watched(server, ATTENTION, worst=1, growth=1536 * MIB):
            end = time.monotonic() + ground.size(2, 20)

            def list_on():
                with server.channel() as own:
                    while time.monotonic() < end:
                        sessions_pb2_grpc.SessionsStub(own).List(
                            sessions_pb2.ListSessionsRequest(model=ATTENTION, page_size=1), timeout=LIMIT)
            with concurrent.futures.ThreadPoolExecutor() as threads:
                lists = [threads.submit(list_on) for _ in range(2)]
                forks = [sessions.Fork.future(sessions_pb2.ForkSessionRequest(
                    session_id="big", new_session_id=f"fork-{i}"), timeout=LIMIT) for i in range(ground.size(200, 1000))]
                for call in forks:
                    with contextlib.suppress(grpc.RpcError):
                        call.result()
                for call in lists:
                    call.result()


@attack
def dead_work(ground):
    """What nobody waits for any more is not done; a drain ends in its limit and a second."""
    with ground.server("--drain-timeout", "1s") as server, server.channel() as channel:
        text = WORDS * ((12 << 20) // len(WORDS))
        calls = [generate(channel, turn(ENGLISH, text=text)) for _ in range(ground.size(16, 40))]
        # They have come once the last of them has.
        pause(1)
        for call in calls:
            call.cancel()
        took, code = server.terminate()
        # The rest is for the machine.
        expect(took <= 1 + 1 + 4, f"the drain took {took:.1f} s")
        expect(code == 0, f"it ended with {code}: {server.text()[-500:]}")
        return f"drained in {took:.1f} s"


# --- Memory.

@attack
def unread_replies(ground):
    """Answers that nobody reads take no more memory than there is for them."""
    with ground.server() as server, ground.watched(server, growth=1024 * MIB, worst=10):
        text = WORDS * ((14 << 20) // len(WORDS))
        with contextlib.ExitStack() as stack:
            calls = [unread(stack.enter_context(server.channel()), "/engram.v1.Models/Tokenize",
                            models_pb2.TokenizeRequest(model=ENGLISH, text=text)) for _ in range(ground.size(10, 20))]
            settle(server)
            for call in calls:
                call.cancel()


@attack
def unread_scores(ground):
    """The same of Score, with log-probabilities."""
    with ground.server() as server, ground.watched(server, growth=512 * MIB, worst=10):
        request = generation_pb2.ScoreRequest(model=RECALL, logprobs=16)
        request.token_ids.ids.extend([1] * 65536)
        with contextlib.ExitStack() as stack:
            calls = [unread(stack.enter_context(server.channel()), "/engram.v1.Generation/Score", request)
                     for _ in range(ground.size(16, 64))]
            settle(server)
            for call in calls:
                call.cancel()


@attack
def long_messages(ground):
    """A call that waits, for its client to read or to say more, keeps nothing of the message that was long."""
    # 12 MiB of a field 1000 that no message has: it is read and means nothing.
    padding = b"\xc2\x3e\x80\x80\x80\x06" + b"x" * (12 * MIB)
    count = ground.size(24, 100)
    with ground.server() as server, contextlib.ExitStack() as stack:
        # A window of 64 KiB that stays so, for answers to get stuck.
        channel = stack.enter_context(server.channel(("grpc.http2.bdp_probe", 0)))
        with ground.watched(server, growth=192 * MIB):
            for i in range(count):
                asked = queue.SimpleQueue()
                request = generation_pb2.ConverseRequest(turn=turn(RECALL, session_id=f"s-{i}"))
                request.turn.MergeFromString(padding)
                asked.put(request)
                answers = generation_pb2_grpc.GenerationStub(channel).Converse(iter(asked.get, None), timeout=LIMIT)
                expect(any(answer.HasField("completed") for answer in answers), "a turn did not end")
                stack.callback(answers.cancel)
        with ground.watched(server, growth=192 * MIB):
            request = models_pb2.TokenizeRequest(model=ENGLISH, text=WORDS * (800_000 // len(WORDS)), pieces=True)
            request.MergeFromString(padding)
            for i in range(count):
                held = server.metric("engram_reply_bytes")
                call = unread(channel, "/engram.v1.Models/Tokenize", request)
                stack.callback(call.cancel)
                told = eventually(lambda: server.metric("engram_reply_bytes") > held or call.done(), 10)
                expect(told, "an answer is neither unread nor refused")
                if call.done():
                    expect(call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, f"a call ended with {call.code()}")
                    expect(i >= 24, f"refused with {i} answers unread")
                    break


@attack
def long_watches(ground):
    """Watches of health, for which nobody needs a key, keep nothing of a message that was long."""
    with ground.server() as server, ground.watched(server, growth=192 * MIB), contextlib.ExitStack() as stack:
        channel = stack.enter_context(server.channel())
        # A name, and a field 1000 that the message does not have.
        for head in (b"\x0a", b"\xc2\x3e"):
            request = head + b"\x80\x80\x80\x02" + b"x" * (4 * MIB)
            for _ in range(ground.size(100, 500)):
                watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(request, timeout=LIMIT)
                stack.callback(watch.cancel)
                # An answer of a watch that goes on, or its end.
                with contextlib.suppress(grpc.RpcError):
                    next(watch)


@attack
def labels(ground):
    """Labels count against the memory of sessions."""
    with ground.server("--session-memory", "16MiB", "--request-log", "off") as server, server.channel() as channel:
        sessions = sessions_pb2_grpc.SessionsStub(channel)
        request = sessions_pb2.CreateSessionRequest(model=RECALL)
        for i in range(32):
            request.labels[f"{i:064d}"] = "x" * 256
        with ground.watched(server, growth=96 * MIB):
            for _ in range(ground.size(20, 100)):
                for call in [sessions.Create.future(request) for _ in range(500)]:
                    with contextlib.suppress(grpc.RpcError):
                        call.result()


@attack
def remembered_requests(ground):
    """What is remembered of past turns counts too, and no past turn is run again."""
    turns = ground.size(300, 3000)
    with ground.server("--session-memory", "16MiB", "--request-log", "off") as server, server.channel() as channel:
        with ground.watched(server, growth=96 * MIB):
            for i in range(turns):
                request = turn(RECALL, max_tokens=0, session_id="old", request_id=f"{i:0128d}")
                expect(code_of(channel, request)[0] == grpc.StatusCode.OK, f"turn {i} failed")
            for i in range(0, turns - 1, turns // 10):
                code, _ = code_of(channel, turn(RECALL, max_tokens=0, session_id="old", request_id=f"{i:0128d}"))
                expect(code != grpc.StatusCode.OK, f"turn {i} of {turns} ran again")
            sessions = sessions_pb2_grpc.SessionsStub(channel)
            version = sessions.Get(sessions_pb2.GetSessionRequest(session_id="old")).version
            expect(version == turns, f"the session has version {version} after {turns} turns")


@attack
def echo(ground):
    """What is wrong is told in short, however long it was."""
    with ground.server() as server, server.channel(("grpc.max_metadata_size", 64 * MIB)) as channel:
        with ground.watched(server, growth=256 * MIB):
            name = "x" * (10 << 20)
            told = [code_of(channel, turn(name))[1]]
            for call, request in (
                    (models_pb2_grpc.ModelsStub(channel).Get, models_pb2.GetModelRequest(model=name)),
                    (models_pb2_grpc.ModelsStub(channel).Tokenize, models_pb2.TokenizeRequest(model=name, text="x")),
                    (sessions_pb2_grpc.SessionsStub(channel).Get, sessions_pb2.GetSessionRequest(session_id=name)),
                    (sessions_pb2_grpc.SessionsStub(channel).Create,
                     sessions_pb2.CreateSessionRequest(session_id=name, model=RECALL))):
                try:
                    call(request, timeout=LIMIT)
                    raise Refuted("a name of 10 MB was taken")
                except grpc.RpcError as error:
                    told.append(error.details())
        longest = max(map(len, told))
        expect(longest < 1000, f"an error message has {longest} bytes")
        line = max(map(len, server.text().splitlines()), default=0)
        expect(line < 4000, f"a line of the log has {line} bytes")


@attack
def vocabulary(ground):
    """A folder of 16 MB that would take gigabytes is refused by name; nothing is thrown."""
    ids, layer = 1 << 23, "backbone.layers.0."
    shapes = {"backbone.embeddings.weight": [ids, 1], "backbone.norm_f.weight": [1], layer + "norm.weight": [1],
              layer + "mixer.A_log": [2, 1], layer + "mixer.D": [2], layer + "mixer.conv1d.bias": [2],
              layer + "mixer.conv1d.weight": [2, 1, 4], layer + "mixer.dt_proj.bias": [2],
              layer + "mixer.dt_proj.weight": [2, 1], layer + "mixer.in_proj.weight": [4, 1],
              layer + "mixer.out_proj.weight": [1, 2], layer + "mixer.x_proj.weight": [3, 2]}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    config = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "vocab_size": ids, "hidden_size": 1,
              "num_hidden_layers": 1, "state_size": 1, "conv_kernel": 4, "expand": 2, "intermediate_size": 2,
              "time_step_rank": 1, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
              "layer_norm_epsilon": 1e-5, "residual_in_fp32": True, "tie_word_embeddings": True}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        text = json.dumps(header).encode()
        with open(pathlib.Path(folder, "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
        for address_space in (512 * MIB, 1024 * MIB, 2048 * MIB, 3072 * MIB):
            try:
                with ground.server(models=(f"huge={folder}",), address_space=address_space):
                    message = "it is served"
            except Refuted as refuted:
                message = str(refuted)
            expect("exit 1)" in message and "of logits" in message and "ulimit -v leaves" in message,
                   f"within {address_space // MIB} MiB: {message}")


# --- Keys.

class EndlessStream:
    """A stream that goes on and on, to a client that costs little: the command line, which prints to nowhere."""

    def __init__(self, ground, server, key_file):
        self.server = server
        self.client = subprocess.Popen(
            [ground.binaries / "engram", "generate", "--server", server.address, "--api-key-file", key_file, "--model", ENGLISH,
             "--prompt", "In", "--ignore-eos", "--max-tokens", str(1 << 20)], stdout=subprocess.DEVNULL)

    def tokens(self):
        return self.server.metric("engram_generation_tokens_total", f'model="{ENGLISH}"')

    def measure(self, process, seconds):
        """Tokens, and how long it took: while `process` goes on, but not longer than `seconds`. It is halted before and after."""
        count, begin = self.tokens(), time.monotonic()
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGSTOP)
        return self.tokens() - count, time.monotonic() - begin

    def __enter__(self):
        eventually(lambda: self.tokens() > 0 or self.client.poll() is not None)
        expect(self.client.poll() is None, "the stream did not begin")
        return self

    def __exit__(self, *_):
        self.client.kill()
        self.client.wait()


@contextlib.contextmanager
def halted(*arguments):
    """A Python process of its own that stands still until it is told to go on."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        expect(process.stdout.readline() == "ready\n", f"{arguments[0]} did not begin")
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@attack
def wrong_keys(ground):
    """Wrong keys, as many as come, keep no stream from its pace, take no memory and fill no log."""
    count, key = ground.size(10_000, 100_000), "a-good-key"
    entry = {"name": "user", "tenant": "t", "roles": ["generate"], "sha256": hashlib.sha256(key.encode()).hexdigest()}
    with tempfile.TemporaryDirectory() as folder:
        keys, key_file = pathlib.Path(folder, "keys.json"), pathlib.Path(folder, "key")
        keys.write_text(json.dumps({"keys": [entry]}))
        key_file.touch(0o600)
        key_file.write_text(key)
        with ground.server("--keys", keys, key=key) as server:
            begin = time.monotonic()
            beside, alone = [], []
            with EndlessStream(ground, server, key_file) as stream, ground.watched(server, growth=24 * MIB), \
                    halted(HERE / "idler.py") as idler, halted(HERE / "wrong_keys.py", server.address, str(count)) as attacker:
                # In turns so short that what else the machine does is in both.
                # The attacker stands for other machines: while it rests, another
                # process takes what time the server leaves, so that what is
                # measured is what its calls cost the server.
                while attacker.poll() is None:
                    alone.append(stream.measure(idler, 0.5))
                    beside.append(stream.measure(attacker, 0.5))
                told = attacker.stdout.read().strip()
                expect(told == f"UNAUTHENTICATED={count}", f"its calls ended with {told}")
            seconds = time.monotonic() - begin
            refused = server.metric("engram_requests_total", 'code="UNAUTHENTICATED"')
            expect(refused == count, f"{refused} of {count} refusals were counted")
            (tokens, time_beside), (tokens_alone, time_alone) = (map(sum, zip(*parts)) for parts in (beside, alone))
            ratio = tokens / time_beside / (tokens_alone / time_alone)
            expect(ratio >= 0.9, f"the stream's pace was {ratio:.2f} of what it was alone")
            server.terminate()
            lines = server.text().count('"event":"caller_refused"')
            expect(1 <= lines <= seconds / 10 + 1, f"{lines} lines of refused callers in {seconds:.0f} s")
            return (f"{count / time_beside:.0f} a second: the stream kept {ratio:.2f} of its {tokens_alone / time_alone:.0f} tokens "
                    f"a second; {lines} lines")


# --- Connections.

@attack
def slow_readers(ground):
    """Whoever does not read keeps no slot from others."""
    with ground.server("--slots", "4", "--stream-tokens", "16", "--max-queue-time", "1m") as server, server.channel() as channel:
        with ground.watched(server, worst=8):
            request = endless(RECALL, logprobs=16)
            calls = [unread(channel, "/engram.v1.Generation/Generate", request) for _ in range(ground.size(8, 16))]
            pause(ground.size(10, 40))
            for call in calls:
                call.cancel()


@attack
def blocked_log(ground):
    """A log that nobody reads blocks nobody."""
    with ground.server(read_log=False) as server, server.channel() as channel, ground.watched(server):
        for _ in range(ground.size(4, 20)):
            calls = [generate(channel, turn(RECALL, session_id=f"s-{i}-{'x' * 100}", request_id="y" * 100), timeout=10)
                     for i in range(250)]
            for call in calls:
                with contextlib.suppress(grpc.RpcError):
                    for _ in call:
                        pass
        expect(code_of(channel, turn(RECALL))[0] == grpc.StatusCode.OK, "no turn after the log was full")


@attack
def descriptors(ground):
    """More connections than there can be end neither the server nor those who are in."""
    with ground.server(descriptors=256) as server, ground.watched(server):
        host, port = server.address.split(":")
        connections = []
        for _ in range(400):
            connection = socket.socket()
            connection.settimeout(1)
            with contextlib.suppress(OSError):
                connection.connect((host, int(port)))
            connections.append(connection)
        pause(ground.size(2, 45))
        for connection in connections:
            connection.close()

        def answers():
            with server.channel() as channel:
                with contextlib.suppress(grpc.RpcError):
                    models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListModelsRequest(), timeout=2)
                    return True
            return False
        expect(eventually(answers, 15), "it takes no new connection once there is room")


@attack
def reflection_streams(ground):
    """Streams of reflection that stay open take so many threads and no more."""
    with ground.server() as server, ground.watched(server), contextlib.ExitStack() as stack:
        begin, most = server.threads(), 0
        channels = [stack.enter_context(server.channel()) for _ in range(4)]
        request = b"\x3a\x01*"  # the list of services
        for i in range(ground.size(200, 2000)):
            asked = queue.SimpleQueue()
            asked.put(request)
            stack.callback(asked.put, None)
            stream = channels[i % 4].stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
                iter(asked.get, None), timeout=LIMIT)
            stack.callback(stream.cancel)
            # An answer of a stream that stays, or its end.
            with contextlib.suppress(grpc.RpcError):
                next(stream)
            most = max(most, server.threads())
        expect(most <= begin + 80, f"it had {begin} threads, and then {most}")
        return f"{begin} threads, at most {most}"


@attack
def silent_metrics_connections(ground):
    """Whoever says nothing to the metrics port keeps no scrape from others."""
    with ground.server() as server, ground.watched(server), contextlib.ExitStack() as stack:
        host, port = server.metrics_address.split(":")
        for i in range(ground.size(8, 64)):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT))
            if i % 2:
                connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        pause(0.2)
        took = []
        for _ in range(3):
            begin = time.monotonic()
            try:
                with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
                    page.read()
            except OSError as error:
                raise Refuted(f"a scrape got nothing in 10 s: {error}") from error
            took.append(time.monotonic() - begin)
        return f"slowest scrape {max(took) * 1000:.0f} ms"
