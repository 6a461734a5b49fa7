// handshake PORT COUNT: makes COUNT full TLS handshakes with the server there; prints the
// median of their milliseconds.

#include "common.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

static int dial(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    uint16_t port = (uint16_t)argument(argc, argv, 1, "PORT");
    long count = argument(argc, argv, 2, "COUNT");
    SSL_CTX *context = checked(SSL_CTX_new(TLS_client_method()), "SSL_CTX_new");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    double *times = checked(calloc((size_t)count, sizeof *times), "calloc");
    for (long i = 0; i < count; i++) {
        uint64_t start = now();
        int fd = dial(port);
        SSL *tls = checked(SSL_new(context), "SSL_new");
        SSL_set_fd(tls, fd);
        if (SSL_connect(tls) != 1) {
            ERR_print_errors_fp(stderr);
            return 1;
        }
        SSL_shutdown(tls);
        SSL_free(tls);
        // Until the server has closed too: it serves one connection at a time.
        shutdown(fd, SHUT_WR);
        char rest[4096];
        while (read(fd, rest, sizeof rest) > 0) {}
        close(fd);
        times[i] = (double)(now() - start) / 1e6;
    }
    printf("%.4f\n", median(times, (size_t)count));
    return 0;
}
