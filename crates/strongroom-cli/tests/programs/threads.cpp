// Threads, new and delete, containers: each thread works on memory of its own and on what
// the others made, checks its own results, and holds a secret in every kind of allocation.
// Prints a checksum that depends on the seed only. Usage: threads SECRET
#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <future>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>
#include <unordered_map>
#include <vector>

#define CHECK(what)                                                               \
    do {                                                                          \
        if (!(what)) {                                                            \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #what); \
            std::_Exit(99);                                                       \
        }                                                                         \
    } while (0)

namespace {

constexpr std::size_t LENGTH = 64;
constexpr int THREADS = 8;

struct Random {
    std::uint64_t state;
    std::uint64_t next()
    {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    }
    std::uint64_t below(std::uint64_t limit) { return next() % limit; }
};

std::uint64_t mix(std::uint64_t sum, std::uint64_t value)
{
    return (sum ^ value) * 1099511628211u;
}

// Types that ask for more alignment than malloc promises.
struct alignas(64) Line {
    unsigned char bytes[192];
};
struct alignas(4096) Page {
    unsigned char bytes[4096];
};

void is_aligned(const void *memory, std::size_t alignment)
{
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % alignment == 0);
}

// A queue by which threads hand memory to each other: freed by others than who allocated.
class Exchange {
public:
    void put(std::unique_ptr<std::string> text)
    {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            texts_.push_back(std::move(text));
        }
        some_.notify_one();
    }
    std::unique_ptr<std::string> take()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        some_.wait(lock, [this] { return !texts_.empty(); });
        auto text = std::move(texts_.front());
        texts_.pop_front();
        return text;
    }

private:
    std::mutex mutex_;
    std::condition_variable some_;
    std::deque<std::unique_ptr<std::string>> texts_;
};

std::uint64_t sum(const std::string &text)
{
    std::uint64_t sum = 14695981039346656037u;
    for (unsigned char c : text)
        sum = mix(sum, c);
    return sum;
}

thread_local std::string own = "of a thread, and longer than the short string buffer has room for";

std::uint64_t containers(Random &random)
{
    std::map<std::uint64_t, std::string> ordered;
    std::unordered_map<std::string, std::vector<std::uint64_t>> hashed;
    std::list<std::vector<char>> list;
    std::uint64_t result = 0;
    for (int i = 0; i < 2000; i++) {
        std::uint64_t key = random.below(200);
        switch (random.below(5)) {
        case 0:
            ordered[key] = std::string(random.below(300), static_cast<char>('a' + key % 26));
            break;
        case 1:
            ordered.erase(key);
            break;
        case 2:
            hashed[std::to_string(key)].push_back(key);
            break;
        case 3:
            list.emplace_back(random.below(5000), static_cast<char>(key));
            if (list.size() > 20)
                list.pop_front();
            break;
        default:
            for (const auto &[number, text] : ordered)
                for (char c : text)
                    CHECK(c == static_cast<char>('a' + number % 26));
        }
    }
    for (const auto &[key, text] : ordered)
        result = mix(mix(result, key), text.size());
    std::vector<std::string> names;
    for (const auto &[name, numbers] : hashed) {
        for (std::uint64_t number : numbers)
            CHECK(std::to_string(number) == name);
        names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    for (const auto &name : names)
        result = mix(mix(result, sum(name)), hashed[name].size());
    for (const auto &bytes : list)
        result = mix(result, bytes.size());
    return result;
}

std::uint64_t raw(Random &random)
{
    struct Piece {
        unsigned char *bytes;
        std::size_t size;
        std::size_t alignment;
        unsigned char value;
    };
    std::vector<Piece> pieces;
    std::uint64_t result = 0;
    auto drop = [](const Piece &piece) {
        for (std::size_t i = 0; i < piece.size; i++)
            CHECK(piece.bytes[i] == piece.value);
        if (piece.alignment)
            ::operator delete(piece.bytes, piece.size, std::align_val_t(piece.alignment));
        else
            ::operator delete(piece.bytes);
    };
    for (int i = 0; i < 5000; i++) {
        if (pieces.size() > 50 || (!pieces.empty() && random.below(2))) {
            std::size_t which = random.below(pieces.size());
            drop(pieces[which]);
            pieces[which] = pieces.back();
            pieces.pop_back();
            continue;
        }
        Piece piece{};
        piece.size = random.below(random.below(20) ? 512 : 20000);
        piece.alignment = random.below(3) ? 0 : std::size_t{1} << (4 + random.below(9));
        piece.value = static_cast<unsigned char>(random.next());
        void *memory = piece.alignment
            ? ::operator new(piece.size, std::align_val_t(piece.alignment))
            : ::operator new(piece.size);
        is_aligned(memory, piece.alignment ? piece.alignment : 16);
        piece.bytes = static_cast<unsigned char *>(memory);
        std::memset(piece.bytes, piece.value, piece.size);
        pieces.push_back(piece);
        result = mix(result, piece.size);
    }
    for (const Piece &piece : pieces)
        drop(piece);
    for (int i = 0; i < 20; i++) {
        std::unique_ptr<Line[]> lines(new Line[1 + random.below(4)]());
        is_aligned(lines.get(), alignof(Line));
        auto page = std::make_unique<Page>();
        is_aligned(page.get(), alignof(Page));
        for (unsigned char byte : page->bytes)
            CHECK(byte == 0);
        std::memset(page->bytes, i, sizeof page->bytes);
    }
    return result;
}

std::uint64_t exceptions(Random &random)
{
    std::uint64_t result = 0;
    for (int i = 0; i < 50; i++) {
        try {
            std::vector<std::string> some(10, std::string(100, 'x'));
            if (random.below(2))
                throw std::runtime_error(std::string(200, 'y') + std::to_string(i));
            some.at(1000) = "there is no such element";
        } catch (const std::out_of_range &) {
            result = mix(result, 1);
        } catch (const std::runtime_error &error) {
            result = mix(result, sum(error.what()));
        }
        // More than any object may have: by exception, and without.
        volatile std::size_t much = ~std::size_t{0} >> 1 << 1;
        try {
            ::operator delete(::operator new(much));
            CHECK(!"there is no such memory");
        } catch (const std::bad_alloc &) {
            result = mix(result, 2);
        }
        CHECK(::operator new(much, std::nothrow) == nullptr);
    }
    return result;
}

std::uint64_t work(int number, Exchange &from, Exchange &to)
{
    Random random{0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(number + 1)};
    std::uint64_t result = sum(own);
    own += std::to_string(number);
    result = mix(result, containers(random));
    result = mix(result, raw(random));
    result = mix(result, exceptions(random));
    for (int i = 0; i < 1000; i++) {
        auto text = std::make_unique<std::string>(random.below(2000), static_cast<char>('a' + i % 26));
        std::string check = std::to_string(sum(*text));
        text->append("#").append(check);
        to.put(std::move(text));
        auto got = from.take();
        std::size_t mark = got->rfind('#');
        CHECK(mark != std::string::npos);
        CHECK(std::to_string(sum(got->substr(0, mark))) == got->substr(mark + 1));
        result = mix(result, got->size());
    }
    CHECK(own == "of a thread, and longer than the short string buffer has room for"
              + std::to_string(number));
    return result;
}

// The secret, in every kind of memory that C++ allocates; read there, never copied.
struct Holder {
    std::string text = std::string(LENGTH, 'x');
    std::vector<unsigned char> vector = std::vector<unsigned char>(LENGTH);
    std::map<int, std::array<unsigned char, LENGTH>> map;
    std::unique_ptr<Page> page = std::make_unique<Page>();
    unsigned char *array = new unsigned char[LENGTH];

    Holder() { map[1]; }
    Holder(const Holder &) = delete;
    Holder &operator=(const Holder &) = delete;
    ~Holder() { delete[] array; }

    std::vector<unsigned char *> places()
    {
        return {reinterpret_cast<unsigned char *>(text.data()), vector.data(), map[1].data(),
                page->bytes + 100, array};
    }
    void read(const char *path)
    {
        for (unsigned char *place : places()) {
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            CHECK(fd >= 0);
            CHECK(::read(fd, place, LENGTH) == static_cast<ssize_t>(LENGTH));
            CHECK(close(fd) == 0);
        }
    }
    bool all_equal()
    {
        for (unsigned char *place : places())
            if (std::memcmp(place, array, LENGTH) != 0)
                return false;
        return true;
    }
};

void stage(const char *name, const void *address)
{
    std::cout.flush();
    char line[128];
    int n = std::snprintf(line, sizeof line, "#stage %s %d 0x%lx %zu\n", name,
                          static_cast<int>(getpid()),
                          static_cast<unsigned long>(reinterpret_cast<std::uintptr_t>(address)),
                          LENGTH);
    CHECK(write(1, line, static_cast<std::size_t>(n)) == n);
    char c;
    do
        CHECK(read(0, &c, 1) == 1);
    while (c != '\n');
}

} // namespace

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    std::ios::sync_with_stdio(false);

    // Each thread gives to the next.
    std::vector<Exchange> exchanges(THREADS);
    std::vector<std::uint64_t> results(THREADS);
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; i++)
        threads.emplace_back([&, i] {
            auto &to = exchanges[static_cast<std::size_t>((i + 1) % THREADS)];
            results[static_cast<std::size_t>(i)] = work(i, exchanges[static_cast<std::size_t>(i)], to);
        });
    for (auto &thread : threads)
        thread.join();
    std::cout << "threads " << std::hex
              << std::accumulate(results.begin(), results.end(), std::uint64_t{0}, mix) << '\n';

    // Many that live for a moment, each with memory of its own and of its starter's.
    std::uint64_t total = 0;
    for (int round = 0; round < 50; round++) {
        std::vector<std::future<std::uint64_t>> futures;
        for (int i = 0; i < 4; i++)
            futures.push_back(std::async(std::launch::async, [text = std::string(1000, 'z'), i] {
                return mix(sum(text), static_cast<std::uint64_t>(i));
            }));
        for (auto &future : futures)
            total = mix(total, future.get());
    }
    std::cout << "futures " << total << '\n';

    // While the main thread stops, the others go on to allocate and free.
    std::vector<std::unique_ptr<Holder>> holders(2);
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t ready = 0;
    bool is_over = false;
    threads.clear();
    for (auto &holder : holders)
        threads.emplace_back([&] {
            holder = std::make_unique<Holder>();
            holder->read(argv[1]);
            std::unique_lock<std::mutex> lock(mutex);
            ready++;
            changed.notify_all();
            while (!is_over) {
                lock.unlock();
                CHECK(holder->all_equal());
                std::make_unique<std::string>(3000, 'w');
                usleep(1000);
                lock.lock();
            }
        });
    {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return ready == holders.size(); });
    }
    for (auto &holder : holders)
        for (unsigned char *place : holder->places())
            stage("held", place);
    {
        std::lock_guard<std::mutex> lock(mutex);
        is_over = true;
    }
    for (auto &thread : threads)
        thread.join();
    CHECK(std::memcmp(holders[0]->array, holders[1]->array, LENGTH) == 0);
    holders.clear();
    stage("freed", nullptr);
    std::cout << "done\n";
    return 6;
}
