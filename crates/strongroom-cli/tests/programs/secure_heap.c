/* OpenSSL's secure heap, which locks itself by mlock2 through syscall().
 * Usage: secure_heap SECRET */
#include "common.h"
#include <openssl/bn.h>
#include <openssl/crypto.h>

#define LENGTH 64

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    /* 1: all is well; 2: the memory could not be locked or guarded. */
    printf("init %d\n", CRYPTO_secure_malloc_init(1 << 16, 16));
    printf("initialized %d\n", CRYPTO_secure_malloc_initialized());

    unsigned char *secret = CRYPTO_secure_malloc(LENGTH, __FILE__, __LINE__);
    CHECK(secret);
    printf("allocated %d, used %zu, size %zu\n", CRYPTO_secure_allocated(secret),
           CRYPTO_secure_used(), CRYPTO_secure_actual_size(secret));
    read_secret(argv[1], secret, LENGTH);
    stage("secret", secret, LENGTH);
    CHECK(holds_secret(argv[1], secret, LENGTH));

    /* A child has its own secure heap, at the same place. */
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(holds_secret(argv[1], secret, LENGTH));
        stage("child", secret, LENGTH);
        OPENSSL_cleanse(secret, LENGTH);
        unsigned char *own = CRYPTO_secure_zalloc(LENGTH, __FILE__, __LINE__);
        CHECK(own && own != secret && all(own, 0, LENGTH));
        CRYPTO_secure_clear_free(own, LENGTH, __FILE__, __LINE__);
        _exit(5);
    }
    printf("child %d\n", reap(child));
    CHECK(holds_secret(argv[1], secret, LENGTH));

    /* Numbers, such as private keys are made of. */
    BIGNUM *number = BN_secure_new();
    CHECK(number && BN_bin2bn(secret, LENGTH, number));
    unsigned char bytes[LENGTH];
    CHECK(BN_bn2binpad(number, bytes, LENGTH) == LENGTH && memcmp(bytes, secret, LENGTH) == 0);
    OPENSSL_cleanse(bytes, sizeof bytes);
    BN_clear_free(number);

    /* Until it is full, and empty again. */
    static unsigned char *pieces[4096];
    size_t count = 0;
    while (count < 4096 && (pieces[count] = CRYPTO_secure_malloc(100, __FILE__, __LINE__))) {
        memset(pieces[count], (int)(count % 251), 100);
        if (!CRYPTO_secure_allocated(pieces[count]))
            break;
        count++;
    }
    for (size_t i = 0; i < count; i++)
        CHECK(all(pieces[i], (unsigned char)(i % 251), 100));
    printf("pieces %zu, used %zu\n", count, CRYPTO_secure_used());
    for (size_t i = 0; i < count; i++)
        CRYPTO_secure_free(pieces[i], __FILE__, __LINE__);
    CHECK(holds_secret(argv[1], secret, LENGTH));
    stage("full", secret, LENGTH);

    CRYPTO_secure_clear_free(secret, LENGTH, __FILE__, __LINE__);
    printf("used %zu\n", CRYPTO_secure_used());
    printf("done %d\n", CRYPTO_secure_malloc_done());
    return 9;
}
