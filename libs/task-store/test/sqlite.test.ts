import { silentLogger } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { describeAppend } from './describe-append.ts'
import { describeAttempts } from './describe-attempts.ts'
import { describeLists } from './describe-lists.ts'
import { describeRemoval } from './describe-removal.ts'
import { describeTaskStore } from './describe-task-store.ts'
import { describeUploads } from './describe-uploads.ts'
import { temporaryFolder } from './fixtures.ts'
import type { Place } from './opened-store.ts'

function openPlace(): Promise<Place> {
  const folder = temporaryFolder()
  return Promise.resolve({
    open: () => openTaskStore({ url: `file:${folder.path}/tasks.db`, logger: silentLogger }),
    [Symbol.asyncDispose]() {
      folder[Symbol.dispose]()
      return Promise.resolve()
    },
  })
}

describeTaskStore('a task store on SQLite', openPlace)
describeAppend('what workers say to a task store on SQLite', openPlace)
describeLists('the lists of a task store on SQLite', openPlace)
describeAttempts('the attempts of a task store on SQLite', openPlace)
describeRemoval('what a task store on SQLite forgets', openPlace)
describeUploads('the uploads of a task store on SQLite', openPlace)
