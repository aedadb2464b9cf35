/*
 * iocost: what one I/O costs, by the clock.
 *
 *	iocost DEVICE COUNT DEPTH USERS
 *
 * Reads COUNT blocks of 4 KiB from DEVICE, past the page cache and all over
 * it, DEPTH at a time: with pread() if that is 1, else by AIO.  Each I/O is
 * that of the next of USERS users, whose ids begin at 1000; with 0 users all
 * of them are root's.  Prints the nanoseconds that it took; what is done
 * once, and the first I/Os, are left out.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK	4096L
#define USER	1000
#define DEPTH	256
/* Far apart, and prime to the number of blocks of any disk that is smaller. */
#define STRIDE	1000003L

static int fd;
static long blocks, users;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static off_t begin(long i)
{
	/* the bare system call: the library would do it in every thread */
	if (users && syscall(SYS_setresuid, USER + i % users, -1, -1))
		fail("setresuid");
	return i * STRIDE % blocks * BLOCK;
}

static void one_by_one(char *memory, long first, long count)
{
	long i;

	for (i = first; i < first + count; i++)
		if (pread(fd, memory, BLOCK, begin(i)) != BLOCK)
			fail("pread");
}

static void submit(aio_context_t context, struct iocb *cb, long i)
{
	cb->aio_offset = begin(i);
	if (syscall(SYS_io_submit, context, 1, &cb) != 1)
		fail("io_submit");
}

static void many(char *memory, long first, long count, long depth)
{
	static struct iocb cbs[DEPTH];
	struct io_event events[DEPTH];
	aio_context_t context = 0;
	long i = first, done = 0, got, k;

	if (syscall(SYS_io_setup, depth, &context))
		fail("io_setup");
	memset(cbs, 0, sizeof(cbs));
	for (k = 0; k < depth; k++) {
		cbs[k].aio_lio_opcode = IOCB_CMD_PREAD;
		cbs[k].aio_fildes = fd;
		cbs[k].aio_buf = (unsigned long)(memory + k * BLOCK);
		cbs[k].aio_nbytes = BLOCK;
		submit(context, &cbs[k], i++);
	}
	while (done < count) {
		got = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
		if (got < 1)
			fail("io_getevents");
		for (k = 0; k < got; k++) {
			if (events[k].res != BLOCK) {
				fprintf(stderr, "an I/O ended with %ld\n", (long)events[k].res);
				exit(1);
			}
			done++;
			if (i < first + count)
				submit(context, (struct iocb *)events[k].obj, i++);
		}
	}
	syscall(SYS_io_destroy, context);
}

static void run(char *memory, long first, long count, long depth)
{
	if (depth == 1)
		one_by_one(memory, first, count);
	else
		many(memory, first, count, depth);
}

int main(int argc, char **argv)
{
	struct timespec from, to;
	unsigned long long bytes;
	long count, depth;
	void *memory;

	if (argc != 5) {
		fprintf(stderr, "usage: iocost DEVICE COUNT DEPTH USERS\n");
		return 2;
	}
	count = atol(argv[2]);
	depth = atol(argv[3]);
	users = atol(argv[4]);
	if (count < 1 || depth < 1 || depth > DEPTH || users < 0) {
		fprintf(stderr, "iocost: out of range\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		fail(argv[1]);
	blocks = bytes / BLOCK;
	if (posix_memalign(&memory, BLOCK, depth * BLOCK))
		fail("memory");
	memset(memory, 0, depth * BLOCK);

	run(memory, 0, count / 8 + depth, depth);
	clock_gettime(CLOCK_MONOTONIC, &from);
	run(memory, 0, count, depth);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%lld\n", (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec);
	return 0;
}
