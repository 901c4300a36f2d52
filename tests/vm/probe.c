/*
 * The bare baseline on the agent's port: what the channel itself costs, without agent or protocol.
 * Lives in the test image as /bin/probe.
 *
 *   probe echo DEV                     writes back what it reads
 *   probe source DEV BYTES SIZE [FILE] after the first byte from the host: writes BYTES, SIZE at once, of
 *                                      a buffer, or of what it reads from FILE
 *   probe sink DEV BYTES SIZE [FILE]   reads BYTES, then writes their count (8 bytes, little endian); with
 *                                      FILE writes them there, up to SIZE at once
 *   probe noise DEV BYTES              writes BYTES random bytes as soon as a host is there
 *   probe hog SECONDS                  keeps the processor for itself: nothing else in the guest runs but
 *                                      interrupts, the driver's work for its ports neither
 *   probe wakeups PID SECONDS          how often PID ran within SECONDS, its memory, and how often it
 *                                      called write:
 *       "switches N voluntary N involuntary N rss_kb N vmrss_kb N vmhwm_kb N writes N"
 *       rss_kb is counted page by page; the other two are what /proc/PID/status says, which the
 *       kernel may leave up to 63 pages behind for each kind of memory; a kernel that does not count
 *       writes makes them -1
 *
 * DEV is a device, or the name of a port. The first three end when one read brings exactly "QUIT".
 *
 * The port is not blocking, and waited for edge-triggered: while no host is connected it polls
 * readable all the time and reads give 0, so a level-triggered wait would spin.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MAX_IO = 1 << 20 };

static char buffer[MAX_IO];
static int port, events;

static void die(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&t, NULL);
}

static long long number(const char *text)
{
	char *end;
	long long n = strtoll(text, &end, 10);
	if (*text == 0 || *end != 0 || n < 0) {
		fprintf(stderr, "probe: not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static size_t io_size(const char *text)
{
	long long n = number(text);
	if (n < 1 || n > MAX_IO) {
		fprintf(stderr, "probe: size must be 1 to %d\n", MAX_IO);
		exit(2);
	}
	return n;
}

/* The device of the port called name, through sysfs: the image may have no udev. */
static void find_port(const char *name, char *path, size_t size)
{
	const char *class = "/sys/class/virtio-ports";
	DIR *dir = opendir(class);
	struct dirent *entry;
	if (!dir)
		die(class);
	while ((entry = readdir(dir))) {
		char file[PATH_MAX], text[256] = "";
		FILE *f;
		snprintf(file, sizeof file, "%s/%s/name", class, entry->d_name);
		if (entry->d_name[0] == '.' || !(f = fopen(file, "r")))
			continue;
		if (fgets(text, sizeof text, f))
			text[strcspn(text, "\n")] = 0;
		fclose(f);
		if (strcmp(text, name) == 0) {
			snprintf(path, size, "/dev/%s", entry->d_name);
			closedir(dir);
			return;
		}
	}
	errno = ENODEV;
	die(name);
}

static void open_port(const char *device)
{
	char path[PATH_MAX];
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	if (strchr(device, '/'))
		snprintf(path, sizeof path, "%s", device);
	else
		find_port(device, path, sizeof path);
	/* A killed agent may hold the port for a moment still. */
	for (int tries = 0; (port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0; tries++) {
		if (errno != EBUSY || tries == 100)
			die(path);
		pause_ms(50);
	}
	events = epoll_create1(EPOLL_CLOEXEC);
	if (events < 0 || epoll_ctl(events, EPOLL_CTL_ADD, port, &event) < 0)
		die("epoll");
}

static void wait_edge(int timeout_ms)
{
	struct epoll_event event;
	if (epoll_wait(events, &event, 1, timeout_ms) < 0 && errno != EINTR)
		die("epoll_wait");
}

/* Waits for room. The interest in it is added only here: every finished write raises an edge. The
 * timeout is for a lost "host connected", which brings no edge at all. */
static void wait_room(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	epoll_ctl(events, EPOLL_CTL_MOD, port, &event);
	wait_edge(1000);
	event.events = EPOLLIN | EPOLLET;
	epoll_ctl(events, EPOLL_CTL_MOD, port, &event);
}

/* At least one byte, whenever it comes. */
static size_t read_some(size_t size)
{
	for (;;) {
		ssize_t n = read(port, buffer, size);
		if (n > 0)
			return n;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			die("read");
		wait_edge(-1);
	}
}

static void write_all(const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t n = write(port, bytes, size);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			die("write");
		if (n <= 0) {
			wait_room();
			continue;
		}
		bytes += n;
		size -= n;
	}
}

static int is_quit(size_t size)
{
	return size == 4 && memcmp(buffer, "QUIT", 4) == 0;
}

static void wait_quit(void)
{
	while (!is_quit(read_some(sizeof buffer)))
		;
}

static void echo(void)
{
	size_t n;
	while (!is_quit(n = read_some(sizeof buffer)))
		write_all(buffer, n);
}

static int open_file(const char *path, int flags)
{
	int file = open(path, flags | O_CLOEXEC, 0600);
	if (file < 0)
		die(path);
	return file;
}

static void source(long long bytes, size_t size, const char *path)
{
	int file = path ? open_file(path, O_RDONLY) : -1;
	read_some(1);
	memset(buffer, 'q', sizeof buffer);
	for (; bytes > 0; bytes -= size) {
		if (bytes < (long long)size)
			size = bytes;
		if (path && read(file, buffer, size) != (ssize_t)size)
			die(path);
		write_all(buffer, size);
	}
	wait_quit();
}

static void sink(long long bytes, size_t size)
{
	uint64_t count = 0;
	while (bytes > (long long)count)
		count += read_some(size);
	write_all((const char *)&count, sizeof count);
	wait_quit();
}

/* One read brings at most 4 KiB: gathers what is there before it writes. */
static void sink_file(long long bytes, size_t size, const char *path)
{
	int file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
	uint64_t count = 0;
	size_t have = 0;
	while (bytes > (long long)count + (long long)have) {
		ssize_t n = read(port, buffer + have, size - have);
		if (n > 0)
			have += n;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			die("read");
		if (have == size || (n <= 0 && have > 0)) {
			if (write(file, buffer, have) != (ssize_t)have)
				die(path);
			count += have;
			have = 0;
		} else if (n <= 0) {
			wait_edge(-1);
		}
	}
	if (have > 0 && write(file, buffer, have) != (ssize_t)have)
		die(path);
	count += have;
	if (close(file) != 0)
		die(path);
	write_all((const char *)&count, sizeof count);
	wait_quit();
}

static void noise(long long bytes)
{
	uint64_t x = 88172645463325252u;
	size_t size = 32768;
	for (; bytes > 0; bytes -= size) {
		if (bytes < (long long)size)
			size = bytes;
		for (size_t i = 0; i < size; i += sizeof x) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			memcpy(buffer + i, &x, sizeof x);
		}
		write_all(buffer, size);
	}
}

static time_t clock_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void hog(long long seconds)
{
	struct sched_param first = { .sched_priority = 50 };
	FILE *limit = fopen("/proc/sys/kernel/sched_rt_runtime_us", "w");
	time_t until = clock_seconds() + seconds;
	if (!limit || fputs("-1", limit) < 0 || fclose(limit) != 0)
		die("sched_rt_runtime_us");
	if (sched_setscheduler(0, SCHED_FIFO, &first) != 0)
		die("sched_setscheduler");
	while (clock_seconds() < until)
		;
}

struct status {
	long long voluntary, involuntary, rss, vmrss, vmhwm, writes;
};

static FILE *proc_file(const char *pid, const char *name)
{
	char path[64];
	FILE *f;
	snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
	if (!(f = fopen(path, "r")))
		die(path);
	return f;
}

static struct status status_of(const char *pid)
{
	struct status s = { .writes = -1 };
	char line[256];
	FILE *f = proc_file(pid, "status");
	while (fgets(line, sizeof line, f)) {
		sscanf(line, "VmRSS: %lld", &s.vmrss);
		sscanf(line, "VmHWM: %lld", &s.vmhwm);
		sscanf(line, "voluntary_ctxt_switches: %lld", &s.voluntary);
		sscanf(line, "nonvoluntary_ctxt_switches: %lld", &s.involuntary);
	}
	fclose(f);
	f = proc_file(pid, "smaps_rollup");
	while (fgets(line, sizeof line, f))
		sscanf(line, "Rss: %lld", &s.rss);
	fclose(f);
	snprintf(line, sizeof line, "/proc/%s/io", pid);
	if ((f = fopen(line, "r"))) {
		while (fgets(line, sizeof line, f))
			sscanf(line, "syscw: %lld", &s.writes);
		fclose(f);
	}
	return s;
}

static void wakeups(const char *pid, long long seconds)
{
	struct status a = status_of(pid), b;
	pause_ms(seconds * 1000);
	b = status_of(pid);
	long long v = b.voluntary - a.voluntary, i = b.involuntary - a.involuntary;
	long long w = b.writes < 0 ? -1 : b.writes - a.writes;
	printf("switches %lld voluntary %lld involuntary %lld rss_kb %lld vmrss_kb %lld vmhwm_kb %lld"
	       " writes %lld\n", v + i, v, i, b.rss, b.vmrss, b.vmhwm, w);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	if (argc == 3 && strcmp(mode, "echo") == 0) {
		open_port(argv[2]);
		echo();
	} else if ((argc == 5 || argc == 6) && strcmp(mode, "source") == 0) {
		open_port(argv[2]);
		source(number(argv[3]), io_size(argv[4]), argv[5]);
	} else if (argc == 5 && strcmp(mode, "sink") == 0) {
		open_port(argv[2]);
		sink(number(argv[3]), io_size(argv[4]));
	} else if (argc == 6 && strcmp(mode, "sink") == 0) {
		open_port(argv[2]);
		sink_file(number(argv[3]), io_size(argv[4]), argv[5]);
	} else if (argc == 4 && strcmp(mode, "noise") == 0) {
		open_port(argv[2]);
		noise(number(argv[3]));
	} else if (argc == 3 && strcmp(mode, "hog") == 0) {
		hog(number(argv[2]));
	} else if (argc == 4 && strcmp(mode, "wakeups") == 0) {
		wakeups(argv[2], number(argv[3]));
	} else {
		fputs("usage: probe echo DEV | source DEV BYTES SIZE [FILE] | sink DEV BYTES SIZE [FILE] |"
		      " noise DEV BYTES | hog SECONDS | wakeups PID SECONDS\n", stderr);
		return 2;
	}
	return 0;
}
