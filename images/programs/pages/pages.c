/*
 * pages: use memory on command, from a process that stays.
 *
 *	pages FOLDER
 *
 * Reads a command from the FIFO FOLDER/in, does it, and answers with one line
 * in the FIFO FOLDER/out: "ok", "ok NUMBER" or "error TEXT".
 *
 *	anon COUNT		map COUNT pages of anonymous memory
 *	shared PATH COUNT	map the first COUNT pages of a file, shared
 *	private PATH COUNT	the same, private
 *	unmap			give the mapping back
 *	read FIRST COUNT	read a byte of each page; answers their sum
 *	write FIRST COUNT BYTE	fill the pages
 *	sync FIRST COUNT	msync() with MS_SYNC
 *	lock			keep all memory of the process from being swapped out
 *	store PATH FIRST COUNT	write the pages into a file, at the same place
 *	fork FOLDER		a child that obeys FOLDER; answers its process id
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE	4096L
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

static long sum(const volatile char *from, long count)
{
	long total = 0, i;

	for (i = 0; i < count; i++)
		total += (unsigned char)from[i * PAGE];
	return total;
}

static int store(const struct worker *w, const char *path, long first, long count)
{
	int fd = open(path, O_WRONLY);
	ssize_t done;

	if (fd < 0)
		return -1;
	done = pwrite(fd, w->map + first * PAGE, count * PAGE, first * PAGE);
	close(fd);
	return done == count * PAGE ? 0 : -1;
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
	if (!strcmp(verb, "shared") && sscanf(line, "%*s %*s %ld", &w->count) == 1)
		return map_file(w, text, MAP_SHARED);
	if (!strcmp(verb, "private") && sscanf(line, "%*s %*s %ld", &w->count) == 1)
		return map_file(w, text, MAP_PRIVATE);
	if (!strcmp(verb, "lock"))
		return mlockall(MCL_CURRENT | MCL_FUTURE);
	if (!strcmp(verb, "fork"))
		return forked(w, text);
	if (!strcmp(verb, "thread"))
		return thread(w, text);

	errno = EINVAL;
	if (!w->map)
		return -1;
	if (!strcmp(verb, "unmap"))
		return munmap(w->map, w->count * PAGE);
	if (!strcmp(verb, "store") && sscanf(line, "%*s %*s %ld %ld", &first, &count) == 2)
		return store(w, text, first, count);
	if (sscanf(line, "%*s %ld %ld %d", &first, &count, &byte) < 2 ||
	    first < 0 || count < 0 || first + count > w->count)
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
	signal(SIGCHLD, SIG_IGN);	/* nobody waits for the children */
	strcpy(w.folder, argv[1]);
	serve(&w);
	return 0;
}
