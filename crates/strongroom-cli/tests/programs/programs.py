"""What the tests do with python3, by name. Prints what is compared, and stops at stages.

Usage: programs.py CASE [KEY CERTIFICATE | SECRET]
"""

import os
import sys

# Each case imports what it needs: modules are memory, of which there may be 8 MiB.


def stage(name, address=0, length=0):
    """As in common.h: says where it is and waits for a line."""
    sys.stdout.flush()
    os.write(1, f"#stage {name} {os.getpid()} {address:#x} {length}\n".encode())
    while True:
        c = os.read(0, 1)
        if c == b"\n":
            return
        if not c:
            sys.exit("the test is gone")


def reap(pid):
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def hashes():
    import hashlib
    import hmac

    data = bytes(range(256)) * 1024
    for name in sorted(hashlib.algorithms_guaranteed):
        state = hashlib.new(name)
        for at in range(0, len(data), 1000):
            state.update(data[at : at + 1000])
        length = (20,) if name.startswith("shake") else ()
        print(name, state.hexdigest(*length))
    print("pbkdf2", hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 5000).hex())
    print("scrypt", hashlib.scrypt(b"password", salt=b"salt", n=1024, r=8, p=1).hex())
    print("hmac", hmac.new(b"key", data, "sha512").hexdigest())
    print("large", hashlib.sha256(b"x" * 700_000).hexdigest())


def tls(key, certificate):
    import socket
    import ssl
    import threading

    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    client_side = ssl.create_default_context(cafile=certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)

        def serve():
            for _ in range(3):
                raw = listener.accept()[0]
                raw.settimeout(120)
                with server_side.wrap_socket(raw, server_side=True) as connection:
                    while data := connection.recv(65536):
                        connection.sendall(data.upper())

        server = threading.Thread(target=serve)
        server.start()
        for number in range(3):
            raw = socket.create_connection(listener.getsockname(), timeout=120)
            with client_side.wrap_socket(raw, server_hostname="localhost") as connection:
                text = b"hello %d " % number * 10_000
                connection.sendall(text)
                got = b""
                while len(got) < len(text):
                    got += connection.recv(65536)
                print(connection.version(), connection.cipher()[0], got == text.upper())
                print(connection.getpeercert()["subject"])
                if number == 1:
                    stage("connected")
        server.join()
    try:
        raw, other = socket.socketpair()
        raw.settimeout(120)
        other.sendall(b"this is no handshake\n" * 10)
        client_side.wrap_socket(raw, server_hostname="localhost")
    except ssl.SSLError as error:
        print(error.reason)
    stage("over")


data = {}


def change(arguments):
    """In another process: changes what it inherited, and says what it sees."""
    index, value = arguments
    seen = data["list"][index]
    data["list"][index] = value
    data["bytes"][index] = 255
    data["more"] = "x" * 50_000
    return index, seen, data["list"][index], data["bytes"][index]


def inherit():
    data.update(list=[f"item {i}" for i in range(100)], bytes=bytearray(20_000))


def is_unchanged():
    return (
        data["list"] == [f"item {i}" for i in range(100)]
        and not any(data["bytes"])
        and sorted(data) == ["bytes", "list"]
    )


def pool():
    import multiprocessing

    inherit()
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        # One task at a time, so that it does not matter which worker does which.
        for i in range(20):
            print(*pool.apply(change, ((i, f"changed {i}"),)))
        squares = pool.map(pow2, range(100), chunksize=7)
        print(sum(squares), sorted(pool.imap_unordered(pow2, range(10))))
        try:
            pool.apply(fail, ("as it should",))
        except ValueError as error:
            print("failed", error)
    print("unchanged", is_unchanged())


def share():
    import multiprocessing
    import zlib

    inherit()
    fork = multiprocessing.get_context("fork")
    # What is to be shared goes on to be: shared mappings, semaphores, pipes.
    number, array = fork.Value("q", 0), fork.Array("d", 10)
    queue, (here, there) = fork.Queue(), fork.Pipe()

    def count(which):
        for _ in range(200):
            with number.get_lock():
                number.value += 1
        array[which] = which / 2
        change((which, "a child's"))
        queue.put((which, data["list"][which], b"x" * 10_000))

    children = [fork.Process(target=count, args=(i,)) for i in range(4)]
    for child in children:
        child.start()
    got = sorted(queue.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    print([(which, item, len(text)) for which, item, text in got])
    print(number.value, list(array), is_unchanged(), [c.exitcode for c in children])

    def echo():
        while (said := there.recv()) is not None:
            there.send(said[::-1])
        os._exit(7)

    child = fork.Process(target=echo)
    child.start()
    for text in ("one", "two" * 5_000):
        here.send(text)
        print(zlib.crc32(here.recv().encode()))
    here.send(None)
    child.join()
    print(child.exitcode)


def pow2(n):
    return n * n


def fail(why):
    raise ValueError(why)


def threads():
    import concurrent.futures
    import hashlib
    import queue
    import threading

    jobs, results = queue.Queue(), {}
    lock = threading.Lock()

    def work():
        while (job := jobs.get()) is not None:
            pieces = [bytes([job % 256]) * (i * 37 % 1000) for i in range(100)]
            digest = hashlib.sha256(b"".join(pieces)).hexdigest()
            with lock:
                results[job] = digest

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for job in range(60):
        jobs.put(job)
    for _ in workers:
        jobs.put(None)
    for worker in workers:
        worker.join()
    print(hashlib.sha256(repr(sorted(results.items())).encode()).hexdigest())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        print(sum(pool.map(lambda n: len(str(n) * n), range(300))))
    for i in range(50):
        own = threading.local()
        own.x = [i] * 100
        thread = threading.Thread(target=lambda: setattr(own, "x", "another's"))
        thread.start()
        thread.join()
        assert own.x == [i] * 100

    # Children of a process whose threads go on.
    is_over = threading.Event()

    def busy():
        while not is_over.is_set():
            sum(len(bytes(n)) for n in range(500))

    workers = [threading.Thread(target=busy) for _ in range(2)]
    for worker in workers:
        worker.start()
    codes = []
    for i in range(10):
        pid = os.fork()
        if pid == 0:
            os._exit(hashlib.sha256(results[i].encode()).digest()[0])
        codes.append(reap(pid))
    is_over.set()
    for worker in workers:
        worker.join()
    print(codes)


def forks():
    inherited = [0]
    text = bytearray(b"the parent's")
    print("a chain:", end=" ", flush=True)

    def chain(depth):
        inherited.append(depth)
        text[:] = b"of depth %d" % depth
        if depth == 10:
            print(inherited, flush=True)
            return 10
        pid = os.fork()
        if pid == 0:
            os._exit(chain(depth + 1))
        code = reap(pid)
        assert inherited == list(range(depth + 1)), inherited
        assert text == b"of depth %d" % depth, text
        return code + depth

    pid = os.fork()
    if pid == 0:
        os._exit(chain(1))
    print(reap(pid), inherited, text.decode())

    # A snapshot: what either changes after the fork, the other does not see.
    from_parent, to_child = os.pipe()
    from_child, to_parent = os.pipe()
    values = {i: str(i) * 100 for i in range(1000)}
    pid = os.fork()
    if pid == 0:
        os.read(from_parent, 1)
        same = all(values[i] == str(i) * 100 for i in range(1000)) and len(values) == 1000
        values.clear()
        os.write(to_parent, b"1" if same else b"0")
        os._exit(0)
    for i in range(1000):
        values[i] = "the parent's"
    values["more"] = "x" * 100_000
    os.write(to_child, b"!")
    print(os.read(from_child, 1), reap(pid), len(values), values[5])

    # Many children, one after the other and at once.
    print([reap_of(i) for i in range(40)])
    pids = []
    for i in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(len(bytearray(i * 1000)) // 1000)
        pids.append(pid)
    print([reap(pid) for pid in pids])
    pid, terminal = os.forkpty()
    if pid == 0:
        print("in a terminal", os.isatty(1), flush=True)
        os._exit(4)
    said = b""
    try:
        while piece := os.read(terminal, 100):
            said += piece
    except OSError:
        pass
    print(said, reap(pid))


def reap_of(i):
    pid = os.fork()
    if pid == 0:
        os._exit(i)
    return reap(pid)


def processes():
    import subprocess

    run = subprocess.run
    print(run(["/bin/echo", "by itself"], capture_output=True, text=True, check=True).stdout)
    print(run("echo in a shell; exit 3", shell=True, stdout=-1, text=True).returncode)
    print(run(["/usr/bin/sort", "-r"], input="a\nb\nc\n", capture_output=True, text=True).stdout)
    # preexec_fn is why these fork, and do not vfork.
    print(run(["/bin/pwd"], cwd="/usr", preexec_fn=os.setsid, stdout=-1, text=True).stdout)
    try:
        run(["/no/such/program"])
    except FileNotFoundError as error:
        print(error)
    code = "import hashlib, sys; sys.exit(hashlib.md5(sys.stdin.buffer.read()).digest()[0])"
    for text in (b"one", b"two" * 100_000):
        print(run([sys.executable, "-c", code], input=text).returncode)
    first = subprocess.Popen(["/usr/bin/seq", "1000"], stdout=-1)
    second = subprocess.Popen(["/usr/bin/sha256sum"], stdin=first.stdout, stdout=-1, text=True)
    first.stdout.close()
    print(second.communicate()[0], first.wait())
    sleeper = subprocess.Popen(["/bin/sleep", "1000"])
    sleeper.terminate()
    print(sleeper.wait())
    print(os.system("exit 5") >> 8, os.popen("echo eight").read())
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 6"], {})
    print(reap(pid))


def secret(path):
    import ctypes

    length = os.stat(path).st_size
    # A buffer that is filled in place, and a bytes object as os.read makes it.
    buffer = bytearray(length)
    with open(path, "rb", buffering=0) as file:
        file.readinto(buffer)
        file.seek(0)
        copy = os.read(file.fileno(), length)
    address = ctypes.addressof((ctypes.c_char * length).from_buffer(buffer))
    stage("buffer", address, length)
    # Behind the head of an object: reference count, type, length, hash.
    stage("bytes", id(copy) + bytes.__basicsize__ - 1, length)
    pid = os.fork()
    if pid == 0:
        stage("child", id(copy) + bytes.__basicsize__ - 1, length)
        os._exit(11)
    print(reap(pid))
    stage("parent", id(copy) + bytes.__basicsize__ - 1, length)
    print(copy == buffer)
    buffer[:] = bytes(length)
    del copy
    stage("freed")
    sys.exit(8)


if __name__ == "__main__":
    cases = dict(
        hashes=hashes,
        tls=tls,
        pool=pool,
        share=share,
        threads=threads,
        forks=forks,
        processes=processes,
        secret=secret,
    )
    cases[sys.argv[1]](*sys.argv[2:])
