//! What is configured: at the start, and again at SIGHUP. And what systemd is told.

use quantix::error::Failure;
use quantix::message::node::VmState;
use quantix::rt::notify::Notify;
use quantix::time::Time;

use super::Daemon;
use super::audit::Audit;
use crate::config::{Config, Source};

impl Daemon {
    /// Has it configured so, and by this again when it is told to.
    ///
    /// # Errors
    /// A line for the operator: metrics cannot be served there.
    pub fn configure(&mut self, config: Config, by: Source) -> Result<(), String> {
        self.configured_by = Some(by);
        self.audit = Audit::new(config.audit.as_ref().unwrap_or(&config.log).clone());
        self.notify = Notify::from_environment();
        self.apply(config)
    }

    /// Brings all that depends on it into line. What cannot be is as it was.
    fn apply(&mut self, config: Config) -> Result<(), String> {
        if config.metrics != self.config.metrics {
            match config.metrics {
                None => self.exporter.close(),
                Some(address) => {
                    let bound = self.exporter.listen(address, self.poll.registry());
                    let bound = bound.map_err(|e| {
                        Failure::system("serve metrics on", &address.to_string(), &e).message
                    })?;
                    self.log
                        .info(format_args!("metrics on http://{bound}/metrics"));
                }
            }
        }
        if config.textfile != self.config.textfile {
            self.exporter.write_to(config.textfile.clone());
        }
        self.log.set_level(config.log_level);
        self.config = config;
        Ok(())
    }

    /// Reads the configuration again, and looks at all VMs.
    pub(super) fn reload(&mut self, now: Time) {
        self.rescan_at = Some(now);
        let Some(source) = &self.configured_by else {
            return;
        };
        self.notify.reloading();
        let (config, faults) = source.read();
        for fault in &faults {
            self.log.warning(format_args!("{fault}"));
        }
        let before = &self.config;
        if !faults.is_empty() {
            self.log.warning(format_args!(
                "nothing was changed; `qx-node serve --check` tells when it is right"
            ));
        } else if before.of_start() != config.of_start() {
            let why =
                "vms_dir, control, log and audit change with the next start; nothing was changed";
            self.log.warning(format_args!("{why}"));
        } else {
            match self.apply(config) {
                Ok(()) => self.log.info(format_args!("configuration read")),
                Err(why) => self.log.warning(format_args!("{why}; it is as it was")),
            }
        }
        self.notify.ready(now, &self.how());
    }

    /// That we live, and with it how many VMs do.
    pub(super) fn tell_systemd(&mut self, now: Time) {
        if self.notify.on_timeout(now) {
            self.notify.status(&self.how());
        }
    }

    pub(super) fn how(&self) -> String {
        let vms = self.names.values().filter_map(|key| self.vms.get(key));
        let ready = vms.filter(|vm| vm.state().wire() == VmState::Ready).count();
        let all = self.names.len();
        format!("{ready} of {all} VMs are ready")
    }
}
