//! A thread with a runtime that lives in a namespace: sockets that its tasks open are there.

use std::{future::Future, sync::mpsc, thread::JoinHandle};

use anyhow::{Context as _, Result, anyhow};
use tokio::{runtime::Handle, sync::oneshot};

use crate::netns::Namespace;

/// One thread, one runtime, one namespace. Dropping it ends its tasks and waits for the thread.
#[derive(Debug)]
pub struct Resident {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Resident {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the runtime cannot start.
    pub fn start(namespace: &Namespace, name: &str) -> Result<Self> {
        let namespace = namespace.clone();
        Self::launch(name, move |ready, stopped| {
            let entered = namespace.enter();
            match entered {
                Ok(_entered) => drive(&ready, stopped),
                // The starter waits for the answer, so the send cannot fail.
                Err(error) => drop(ready.send(Err(error))),
            }
        })
    }

    /// The same in this process's own namespace, for trying things by hand.
    ///
    /// # Errors
    /// If the runtime cannot start.
    pub fn start_here(name: &str) -> Result<Self> {
        Self::launch(name, |ready, stopped| drive(&ready, stopped))
    }

    /// Runs `task` on the thread and waits for its result.
    ///
    /// # Errors
    /// If the task panicked.
    pub fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.begin(task).wait()
    }

    /// Runs `task` on the thread and does not wait yet.
    pub fn begin<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Pending<T> {
        let (sender, receiver) = mpsc::channel();
        drop(self.handle.spawn(async move {
            // The other end is gone when nobody wants the result.
            let _ = sender.send(task.await);
        }));
        Pending(receiver)
    }

    fn launch(
        name: &str,
        body: impl FnOnce(mpsc::Sender<Result<Handle>>, oneshot::Receiver<()>) + Send + 'static,
    ) -> Result<Self> {
        let (ready, answer) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(ready, stopped))
            .with_context(|| format!("thread {name} did not start"))?;
        let handle = answer
            .recv()
            .map_err(|_gone| anyhow!("thread {name} ended before it was ready"))??;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // Dropping the sender wakes the thread.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A task that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

/// A task under way on a [`Resident`].
#[derive(Debug)]
pub struct Pending<T>(mpsc::Receiver<T>);

impl<T> Pending<T> {
    /// Waits for the task's result.
    ///
    /// # Errors
    /// If the task panicked or its thread has ended.
    pub fn wait(self) -> Result<T> {
        self.0
            .recv()
            .map_err(|_gone| anyhow!("a task in the lab panicked or was stopped"))
    }
}

fn drive(ready: &mpsc::Sender<Result<Handle>>, stopped: oneshot::Receiver<()>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            // The starter waits for the answer, so the send cannot fail.
            let _ = ready.send(Ok(runtime.handle().clone()));
            runtime.block_on(async {
                // Ends with an error when the sender is dropped: that is the signal.
                let _ = stopped.await;
            });
        }
        Err(error) => drop(ready.send(Err(error.into()))),
    }
}
