/*
 * pages: use memory on command, from a process that stays.
 *
 *	pages FOLDER
 *
 * Reads a command from the FIFO FOLDER/in, does it, and answers with one line
 * in the FIFO FOLDER/out: "ok", "ok NUMBER" or "error TEXT".
 *
 *	anon COUNT		map COUNT pages of anonymous memory
 *	huge COUNT		the same, of huge pages of 2 MB where they fit
 *	shared PATH COUNT	map the first COUNT pages of a file, shared
 *	private PATH COUNT	the same, private
 *	unmap			give the mapping back
 *	read FIRST COUNT	read a byte of each page; answers their sum
 *	write FIRST COUNT BYTE	fill the pages
 *	sync FIRST COUNT	msync() with MS_SYNC
 *	lock			keep all memory of the process from being swapped out
 *	store PATH FIRST COUNT	write the pages into a file, at the same place
 *	direct PATH FIRST COUNT	the same with O_DIRECT
 *	fetch PATH FIRST COUNT	read the pages from a file with O_DIRECT
 *	id			answers the process id
 *	fork FOLDER		a child that obeys FOLDER; answers its process id
 *	reap			wait until a child is gone
 *	thread FOLDER		a thread that obeys FOLDER; answers its thread id
 *	leave			end this thread, but not the process
 *	quit			end the process
 *
 * Parent, child and threads know the mapping that there was when they began.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	4096L
#define HUGE	(512 * PAGE)
#define LINE	512

struct worker {
	char folder[LINE];
	char *map;
	long count;
	pid_t tid;
	pthread_barrier_t *started;	/* of a thread: its creator waits */
};

static int opened(const struct worker *w, const char *name, int flags)
{
	char path[LINE + 8];

	snprintf(path, sizeof(path), "%s/%s", w->folder, name);
	return open(path, flags);
}

/* One line, as it was written by one echo. */
static int command(const struct worker *w, char *line)
{
	int fd = opened(w, "in", O_RDONLY);
	ssize_t n, used = 0;

	if (fd < 0)
		return -1;
	while ((n = read(fd, line + used, LINE - 1 - used)) > 0)
		used += n;
	close(fd);
	line[used] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return n < 0 ? -1 : 0;
}

static void answer(const struct worker *w, const char *text)
{
	int fd = opened(w, "out", O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(1);
	close(fd);
}

static int map_file(struct worker *w, const char *path, int flags)
{
	int fd = open(path, O_RDWR);

	if (fd < 0)
		return -1;
	w->map = mmap(NULL, w->count * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	close(fd);
	return w->map == MAP_FAILED ? -1 : 0;
}

/* From a multiple of HUGE on. */
static int map_huge(struct worker *w)
{
	size_t length = w->count * PAGE;
	char *map = mmap(NULL, length + HUGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return -1;
	w->map = map + (HUGE - (unsigned long)map % HUGE) % HUGE;
	return madvise(w->map, length, MADV_HUGEPAGE);
}

static long sum(const volatile char *from, long count)
{
	long total = 0, i;

	for (i = 0; i < count; i++)
		total += (unsigned char)from[i * PAGE];
	return total;
}

static int transfer(const struct worker *w, const char *verb, const char *path,
		    long first, long count)
{
	int direct = strcmp(verb, "store") ? O_DIRECT : 0;
	char *from = w->map + first * PAGE;
	size_t length = count * PAGE;
	ssize_t done;
	int fd;

	fd = open(path, O_RDWR | direct);
	if (fd < 0)
		return -1;
	if (!strcmp(verb, "fetch"))
		done = pread(fd, from, length, first * PAGE);
	else
		done = pwrite(fd, from, length, first * PAGE);
	close(fd);
	if (done >= 0 && (size_t)done != length)
		errno = EIO;
	return done == (ssize_t)length ? 0 : -1;
}

static void *serve(void *arg);

static long forked(const struct worker *parent, const char *folder)
{
	struct worker child = *parent;
	pid_t pid = fork();

	if (pid == 0) {
		strcpy(child.folder, folder);
		child.started = NULL;
		serve(&child);
		_exit(0);
	}
	return pid;
}

static long thread(const struct worker *parent, const char *folder)
{
	struct worker *new = malloc(sizeof(*new));
	pthread_barrier_t started;
	pthread_t id;

	if (!new)
		return -1;
	*new = *parent;
	strcpy(new->folder, folder);
	new->started = &started;
	pthread_barrier_init(&started, NULL, 2);
	errno = pthread_create(&id, NULL, serve, new);
	if (errno)
		return -1;
	pthread_barrier_wait(&started);
	return new->tid;
}

static int fits(const struct worker *w, long first, long count)
{
	return first >= 0 && count >= 0 && first + count <= w->count;
}

/* The number to answer with, 0 for none, or -1 with errno set. */
static long obey(struct worker *w, char *line)
{
	char verb[LINE] = "", text[LINE] = "";
	long first = 0, count = 0;
	int byte = 0;

	sscanf(line, "%s %s", verb, text);
	if (!strcmp(verb, "anon") && sscanf(text, "%ld", &w->count) == 1) {
		w->map = mmap(NULL, w->count * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return w->map == MAP_FAILED ? -1 : 0;
	}
	if (!strcmp(verb, "huge") && sscanf(text, "%ld", &w->count) == 1)
		return map_huge(w);
	if (!strcmp(verb, "shared") && sscanf(line, "%*s %*s %ld", &w->count) == 1)
		return map_file(w, text, MAP_SHARED);
	if (!strcmp(verb, "private") && sscanf(line, "%*s %*s %ld", &w->count) == 1)
		return map_file(w, text, MAP_PRIVATE);
	if (!strcmp(verb, "lock"))
		return mlockall(MCL_CURRENT | MCL_FUTURE);
	if (!strcmp(verb, "id"))
		return getpid();
	if (!strcmp(verb, "reap"))
		return waitpid(-1, NULL, 0) < 0 ? -1 : 0;
	if (!strcmp(verb, "fork"))
		return forked(w, text);
	if (!strcmp(verb, "thread"))
		return thread(w, text);

	errno = EINVAL;
	if (!w->map)
		return -1;
	if (!strcmp(verb, "unmap"))
		return munmap(w->map, w->count * PAGE);
	if (sscanf(line, "%*s %*s %ld %ld", &first, &count) == 2 &&
	    (!strcmp(verb, "store") || !strcmp(verb, "direct") || !strcmp(verb, "fetch")))
		return fits(w, first, count) ? transfer(w, verb, text, first, count) : -1;
	if (sscanf(line, "%*s %ld %ld %d", &first, &count, &byte) < 2 || !fits(w, first, count))
		return -1;
	if (!strcmp(verb, "read"))
		return sum(w->map + first * PAGE, count);
	if (!strcmp(verb, "write")) {
		memset(w->map + first * PAGE, byte, count * PAGE);
		return 0;
	}
	if (!strcmp(verb, "sync"))
		return msync(w->map + first * PAGE, count * PAGE, MS_SYNC);
	return -1;
}

static void *serve(void *arg)
{
	struct worker *w = arg;
	char line[LINE], reply[LINE];
	long result;

	w->tid = syscall(SYS_gettid);
	if (w->started)
		pthread_barrier_wait(w->started);
	while (!command(w, line)) {
		if (!strcmp(line, "quit")) {
			answer(w, "ok\n");
			exit(0);
		}
		if (!strcmp(line, "leave")) {
			answer(w, "ok\n");
			pthread_exit(NULL);
		}
		result = obey(w, line);
		if (result < 0)
			snprintf(reply, sizeof(reply), "error %s\n", strerror(errno));
		else if (result > 0)
			snprintf(reply, sizeof(reply), "ok %ld\n", result);
		else
			strcpy(reply, "ok\n");
		answer(w, reply);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct worker w;

	if (argc != 2 || strlen(argv[1]) >= LINE) {
		fprintf(stderr, "usage: pages FOLDER\n");
		return 2;
	}
	strcpy(w.folder, argv[1]);
	serve(&w);
	return 0;
}
